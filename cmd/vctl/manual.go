package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// manual is vctl(8). It is made of what the commands say of themselves, by cli with a template that has more sections than
// its own.
func manual(a *cli.App) (string, error) {
	cli.MarkdownDocTemplate = manualTemplate
	for name, v := range map[string]any{"commands": manualEntries("", a.Commands), "term": optionTerm, "text": optionText} {
		a.Metadata[name] = v
	}
	return a.ToManWithSection(8)
}

// manualEntry is a command with its parents' names.
type manualEntry struct {
	Path string
	*cli.Command
}

// manualEntries are all commands that are not hidden, each group in front of its commands.
func manualEntries(path string, commands []*cli.Command) (list []manualEntry) {
	for _, c := range commands {
		if c.Hidden {
			continue
		}
		name := strings.TrimSpace(path + " " + c.Name)
		list = append(list, manualEntry{name, c})
		list = append(list, manualEntries(name, c.Subcommands)...)
	}
	return list
}

// optionTerm is an option with its value: **--connect** *URI*, **-c** *URI*.
func optionTerm(f cli.DocGenerationFlag) string {
	value := ""
	if f.TakesValue() {
		value = " *VALUE*"
		if quoted := strings.Split(f.GetUsage(), "`"); len(quoted) > 2 { // as cli's help has it
			value = " *" + quoted[1] + "*"
		}
	}
	terms := make([]string, 0, len(f.Names()))
	for _, name := range f.Names() {
		dashes := "--"
		if len(name) == 1 {
			dashes = "-"
		}
		terms = append(terms, "**"+dashes+name+"**"+value)
	}
	return strings.Join(terms, ", ")
}

// optionText is what an option does, and its value where it is not given.
func optionText(f cli.DocGenerationFlag) string {
	text := strings.ReplaceAll(f.GetUsage(), "`", "")
	standard := strings.Trim(f.GetValue(), `"`)
	if f.TakesValue() && standard != "" && standard != "0" && standard != "0s" && standard != "[]" {
		text += " (default: " + standard + ")"
	}
	return text
}

// manualTemplate is the page in Markdown. Tests parse the lines that are set in as code.
const manualTemplate = `% VCTL 8 "November 26, 2026" virtd "System Manager's Manual"

# NAME

vctl - {{.App.Usage}}

# SYNOPSIS

**vctl** [*OPTION*]… *COMMAND* [*OPTION*]… [*OPERAND*]…

# DESCRIPTION

{{.App.Description}}

The options of a command stand before or after its operands; what follows **--** is an operand.
**vctl** *COMMAND* **--help** shows the options and operands of one command, **vctl** *GROUP* **--help** the commands of a group.

# OPTIONS
{{range .App.VisibleFlags}}
{{call $.App.Metadata.term .}}
: {{call $.App.Metadata.text .}}
{{end}}
# COMMANDS
{{range .App.Metadata.commands}}
### **{{.Path}}**{{if .Subcommands}} *COMMAND*{{else}}{{if .VisibleFlags}} [*OPTION*]…{{end}}{{if .ArgsUsage}} *{{.ArgsUsage}}*{{end}}{{end}}

{{.Usage}}.
{{if .Description}}
{{.Description}}
{{end}}{{if .Aliases}}
Also called{{range .Aliases}} **{{.}}**{{end}}.
{{end}}{{range .VisibleFlags}}
{{call $.App.Metadata.term .}}
: {{call $.App.Metadata.text .}}
{{end}}{{end}}
# OUTPUT

With **--output json** a command that prints data prints it as JSON: an object, a list, or for **event** one object for each event.
A command that changes something prints an object with the member *result*. Errors are text on standard error in any case.
What is no data stays as it is: the bytes of a console, those of a volume that **vol download** writes to standard output, and what
**completion** prints.

# EXIT STATUS

**0**
: The command did what it says.

**1**
: It failed, or the command line makes no sense, or **host-check** found that no guest can run, or **event** with **--timeout** saw
  no event. Standard error says why; **host-check** says it on standard output.

# ENVIRONMENT

**VIRTD_URI**, **LIBVIRT_DEFAULT_URI**
: The connection URI where **--connect** does not give one; the first that is set counts.

**LIBVIRT_AUTH_FILE**
: The file with names and passwords where the URI has no authfile=.

**VISUAL**, **EDITOR**
: The editor of **edit**, the first that is set; vi without them.

**TMPDIR**
: Where **edit** keeps the text while it is edited, and afterwards if it was refused; /tmp without it.

**XDG_RUNTIME_DIR**
: The socket of qemu:///session is libvirt/libvirt-sock in it; in /run/user/UID without it.

**XDG_CONFIG_HOME**
: libvirt/auth.conf is looked for in it; in ~/.config without it.

**SSH_AUTH_SOCK**
: The agent whose keys are tried over ssh.

# FILES

/var/run/libvirt/libvirt-sock
: The socket of qemu:///system; socket= in the URI names another one.

~/.config/libvirt/auth.conf, /etc/libvirt/auth.conf
: Names and passwords for daemons that ask, in libvirt's form; the first that exists counts.

/etc/pki/CA/cacert.pem, /etc/pki/libvirt/clientcert.pem, /etc/pki/libvirt/private/clientkey.pem
: The authority, certificate and key for TLS. Users other than root have theirs in ~/.pki/libvirt. pkipath= in the URI names a
  directory with all three.

~/.ssh/known_hosts, ~/.config/libvirt/known_hosts
: The keys of hosts, for qemu+ssh and for qemu+libssh2; known_hosts= in a URI of the latter names another file.

~/.ssh/id_ed25519, ~/.ssh/id_rsa and so on
: The user's key for both; keyfile= in the URI names another one.

virt-ssh-helper
: A link to **vctl** of this name is the program that libvirt's clients start on a host over ssh.

# EXAMPLES

Define a domain, start it and see its console from the first byte; Ctrl and ] leaves:

    vctl define demo.xml
    vctl start demo --console

Take memory from a running guest, and press its power button:

    vctl balloon demo 500MiB
    vctl shutdown demo

A network behind the host's address, and an interface on it:

    vctl net create lab --nat 10.9.0.0/24
    vctl nic attach demo --network lab --live --config

A disk of 20 GiB over an image, attached to a running guest until it stops:

    vctl vol create demo.qcow2 20GiB --format qcow2 --backing /srv/debian.qcow2 --backing-format qcow2
    vctl disk attach demo /var/lib/libvirt/images/demo.qcow2 vdb --format qcow2

Give a card of the host to a guest:

    vctl passthrough 0000:01:00.0 demo

The states of all domains for a program, and the next event of one:

    vctl -o json list --all
    vctl -o json event demo --count 1

The same of another host:

    vctl -c qemu://host.example.org/system list --all

# SEE ALSO

**virsh**(1), **virtd**(8), **virtd-vmm**(8)
`
