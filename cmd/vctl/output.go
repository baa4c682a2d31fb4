package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// emit prints data: as JSON when -o json asks for it, else through text.
func emit(c *cli.Context, data any, text func(io.Writer) error) error {
	w := c.App.Writer
	if c.String("output") == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(data)
	}
	return text(w)
}

// done prints what a command did, or {"result": …} for programs.
func done(c *cli.Context, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	return emit(c, map[string]string{"result": text}, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, text)
		return err
	})
}

// table prints rows below headings as virsh does: columns three spaces apart, a rule below the heading.
func table(w io.Writer, heads []string, rows [][]string) error {
	width := make([]int, len(heads))
	for i, h := range heads {
		width[i] = utf8.RuneCountInString(h)
	}
	for _, r := range rows {
		for i, cell := range r {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	total := 1
	for _, n := range width {
		total += n + 3
	}
	line := func(cells []string) string {
		var b strings.Builder
		for i, cell := range cells {
			b.WriteByte(' ')
			b.WriteString(cell)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		return b.String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", line(heads), strings.Repeat("-", total))
	for _, r := range rows {
		fmt.Fprintf(&b, "%s\n", line(r))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// field is one line of a description.
type field struct{ name, value string }

// describe prints fields as virsh dominfo does.
func describe(w io.Writer, fields []field) error {
	var b strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&b, "%-17s%s\n", f.name+":", f.value)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
