package domain

import (
	"fmt"
	"slices"

	"virtd/domain/xmltree"
	"virtd/network/portconf"
)

// NotProvided returns one sentence for each thing that the definition asks for and keeps, but the guest does not get:
// devices that clients add to every domain, such as a display. The order is the document's; nothing is said twice.
func (d *Definition) NotProvided() []string {
	var list []string
	note := func(text string) {
		if text != "" && !slices.Contains(list, text) {
			list = append(list, text)
		}
	}
	devices := vocabulary().child("devices")
	for _, n := range d.doc.Root.Child("devices").Elements() {
		if w := devices.child(n.Name.Local); w != nil && n.Name.Prefix == "" {
			note(w.notProvided(n))
			note(unlimited(n))
		}
	}
	return list
}

// unlimited says that nothing limits n, an interface that asks for rates and has no link on the host which could have them. libvirt
// takes such a document, so it is not refused.
func unlimited(n *xmltree.Node) string {
	kind := n.Attr("type")
	if !n.Is("interface") || kind != typeUser && kind != typeVhostUser {
		return ""
	}
	if b, err := portconf.ReadBandwidth(n, true); err != nil || !b.Limited() {
		return ""
	}
	return fmt.Sprintf("not provided: bandwidth of interface type='%s' (only taps and macvtaps have limits)", kind)
}

// notProvided says what of n, a device that w describes, the guest does not get; "" for one that it gets.
func (w *word) notProvided(n *xmltree.Node) string {
	if w.absent(n) {
		text := "not provided: " + n.Name.Local
		for _, attr := range []string{"type", "model", "bus"} {
			if v := n.Attr(attr); v != "" {
				text += fmt.Sprintf(" %s='%s'", attr, v)
			}
		}
		if w.reason != "" {
			text += " (" + w.reason + ")"
		}
		return text
	}
	for _, c := range n.Elements() {
		if known := w.child(c.Name.Local); known != nil && c.Name.Prefix == "" && known.absent(c) {
			return fmt.Sprintf("not provided: %s of %s type='%s' (%s)", c.Name.Local, n.Name.Local, c.Attr("type"), known.reason)
		}
	}
	return ""
}

// absent reports whether n, which w describes, is kept without being provided: it is of such a kind, or a value says so.
func (w *word) absent(n *xmltree.Node) bool {
	if w.treat == absent {
		return true
	}
	for _, a := range w.attrs {
		value, ok := n.LookupAttr(a.name)
		if ok && slices.ContainsFunc(a.value.enum, func(c choice) bool { return c.treat == absent && c.text == value }) {
			return true
		}
	}
	return false
}
