package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

// edit lets the user change a definition. A text that was typed is never lost: it is defined, or it stays in a file
// whose name is printed.
func edit(c *cli.Context, s *session, d libvirt.Domain) error {
	const flags = libvirt.DomainXMLSecure | libvirt.DomainXMLInactive
	before, err := s.DomainGetXMLDesc(d, flags)
	if err != nil {
		return err
	}
	file, err := writeDraft(d.Name, before)
	if err != nil {
		return err
	}
	answers := bufio.NewReader(c.App.Reader)
	for {
		if err := runEditor(c, file); err != nil {
			return keepDraft(file, err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return keepDraft(file, err)
		}
		text := string(data)
		if text == before {
			os.Remove(file)
			return done(c, "Domain '%s' XML configuration not changed.", d.Name)
		}
		err = applyDraft(s, d, before, text)
		if err == nil {
			os.Remove(file)
			return done(c, "Domain '%s' XML configuration edited.", d.Name)
		}
		fmt.Fprintf(c.App.ErrWriter, "error: %v\n", err)
		again, lax := askAgain(c.App.ErrWriter, answers)
		if lax {
			if _, err = s.DomainDefineXMLFlags(text, 0); err == nil {
				os.Remove(file)
				return done(c, "Domain '%s' XML configuration edited.", d.Name)
			}
		}
		if !again {
			return keepDraft(file, err)
		}
	}
}

// applyDraft defines text unless somebody else changed the definition since it was read.
func applyDraft(s *session, d libvirt.Domain, before, text string) error {
	now, err := s.DomainGetXMLDesc(d, libvirt.DomainXMLSecure|libvirt.DomainXMLInactive)
	if err != nil {
		return err
	}
	if now != before {
		return errors.New("the XML configuration was changed by another user")
	}
	_, err = s.DomainDefineXMLFlags(text, libvirt.DomainDefineValidate)
	return err
}

// askAgain asks what to do with a refused text: edit again, or define it without validation, or give up. The end of
// input gives up.
func askAgain(w io.Writer, answers *bufio.Reader) (again, lax bool) {
	for {
		fmt.Fprint(w, "Failed. Try again? [y,n,i,?]: ")
		line, err := answers.ReadString('\n')
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return true, false
		case "n", "no":
			return false, false
		case "i":
			return true, true
		}
		if err != nil {
			fmt.Fprintln(w)
			return false, false
		}
		fmt.Fprint(w, "y - edit again\nn - give up and keep the text in its file\ni - define without validation\n")
	}
}

func writeDraft(name, text string) (string, error) {
	f, err := os.CreateTemp("", "vctl-"+strings.ReplaceAll(name, "/", "_")+"-*.xml")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(text)
	return f.Name(), errors.Join(err, f.Close())
}

func keepDraft(file string, err error) error {
	return fmt.Errorf("%w\nyour text is kept in %s", err, file)
}

func runEditor(c *cli.Context, file string) error {
	editor := os.Getenv("VISUAL")
	if editor == "" {
		editor = os.Getenv("EDITOR")
	}
	if editor == "" {
		editor = "vi"
	}
	// The variable may hold arguments, so the shell splits it, as git and virsh do.
	cmd := exec.CommandContext(c.Context, "sh", "-c", editor+` "$1"`, "sh", file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("editor '%s': %w", editor, err)
	}
	return nil
}
