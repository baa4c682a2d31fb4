"""What a person sees and does on an X display, by the accessible names of GTK's widgets, for virt-manager's test."""
import os
import re
import subprocess
import time
import warnings

import gi
gi.require_version("Atspi", "2.0")
from gi.repository import Atspi, GLib

warnings.filterwarnings("ignore", category=DeprecationWarning)


class Missing(Exception):
    """Something did not appear in time; says what is there instead."""

    def __init__(self, what):
        screenshot("missing")
        seen = [f"{w.node.get_role_name()} {w.name!r}" for w in Widget().all() if w.name]
        super().__init__(f"{what}; there are {', '.join(seen)}")


# how many times longer than here things may take
PATIENCE = int(os.environ.get("PATIENCE", "1"))


def until(what, probe, seconds=60):
    """Returns the first true result of probe. Widgets that go while they are looked at are looked for again."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        try:
            found = probe()
        except GLib.Error:
            found = None
        if found:
            return found
        if time.monotonic() > end:
            raise Missing(what)
        time.sleep(0.05)


def screenshot(name):
    """Leaves a picture in $SCREENSHOTS, if that is set."""
    if os.environ.get("SCREENSHOTS"):
        subprocess.run(["import", "-window", "root", os.path.join(os.environ["SCREENSHOTS"], name + ".png")])


class Widget:
    """A widget of the application; Widget() is the whole display."""

    def __init__(self, node=None):
        self.node = node or Atspi.get_desktop(0)

    @property
    def name(self):
        """The accessible name, or that of the label."""
        name = self.node.get_name()
        if not name and self.node.get_role_name() == "text":
            for relation in self.node.get_relation_set():
                if relation.get_relation_type() == Atspi.RelationType.LABELLED_BY:
                    name = relation.get_target(0).get_name()
        return name

    def all(self, role=None):
        """The visible widgets below, of a role. The application looks for them itself: asking for each takes seconds."""
        if self.node.get_role() == Atspi.Role.DESKTOP_FRAME:
            for i in range(self.node.get_child_count()):
                program = self.node.get_child_at_index(i)
                for j in range(program.get_child_count()):
                    window = Widget(program.get_child_at_index(j))
                    if self.visible(window.node):
                        if role in (None, window.node.get_role_name()):
                            yield window
                        yield from window.all(role)
            return
        roles = [getattr(Atspi.Role, role.upper().replace(" ", "_"))] if role else []
        every, some = Atspi.CollectionMatchType.ALL, Atspi.CollectionMatchType.ANY
        rule = Atspi.MatchRule.new(Atspi.StateSet.new([Atspi.StateType.SHOWING]), every, {}, every, roles, some, [], every, False)
        widgets = self.node.get_collection_iface()
        if not widgets:  # it goes
            return
        for node in widgets.get_matches(rule, Atspi.CollectionSortOrder.CANONICAL, 0, True):
            yield Widget(node)

    @staticmethod
    def visible(node):
        return node.get_state_set().contains(Atspi.StateType.SHOWING)

    def names(self, role):
        return [n for n in (w.name for w in self.all(role)) if n]

    def has(self, role, name):
        return next((w for w in self.all(role) if re.fullmatch(name, w.name, re.DOTALL)), None)

    def find(self, role, name, seconds=60):
        return until(f"{role} {name!r}", lambda: self.has(role, name), seconds)

    def gone(self, seconds=60):
        def probe():
            try:
                return not self.visible(self.node)
            except GLib.Error:
                return True

        until("it is still there", probe, seconds)

    def sensitive(self):
        until(f"{self.name!r} cannot be used", lambda: self.node.get_state_set().contains(Atspi.StateType.SENSITIVE))
        return self

    def click(self):
        """Presses a button. The application may not answer before a dialog that it opens is over."""
        self.sensitive()
        try:
            self.node.do_action(0)
        except GLib.Error:
            pass

    def activate(self):
        """Double-clicks a row."""
        for i in range(self.node.get_n_actions()):
            if self.node.get_action_name(i) == "activate":
                self.node.do_action(i)

    def focus(self):
        self.node.get_component_iface().grab_focus()
        return self

    def select(self):
        """Turns to a page of a notebook."""
        self.node.get_parent().get_selection_iface().select_child(self.node.get_index_in_parent())

    @property
    def text(self):
        return self.node.get_text_iface().get_text(0, -1)

    @text.setter
    def text(self, value):
        self.node.get_editable_text_iface().set_text_contents(value)

    def front(self):
        """Raises a window and gives it the keyboard, as a window manager would."""
        subprocess.run(["xdotool", "search", "--onlyvisible", "--name", "^" + re.escape(self.name) + "$", "windowraise", "windowfocus"], check=True)
        return self

    def press(self, *more):
        """Clicks with the mouse, and does more of what xdotool can. Its window must be the uppermost."""
        e = self.node.get_component_iface().get_extents(Atspi.CoordType.SCREEN)
        subprocess.run(["xdotool", "mousemove", str(e.x + e.width // 2), str(e.y + e.height // 2), "click", "1", *more], check=True)

    def type(self, text):
        """Types with the keyboard, into what the mouse was clicked on."""
        self.press("type", "--delay", "20", text)
