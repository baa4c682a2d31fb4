package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"virtd/domain"
)

var update = flag.Bool("update", false, "write the manual page again")

const docs = "../../docs"

func TestManualIsCurrent(t *testing.T) {
	page, err := app(nil, nil, nil).ToManWithSection(8)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(docs, "man", "vctl.8")
	if *update {
		if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != page {
		t.Errorf("%s is not what vctl says: go test ./cmd/vctl -update", file)
	}
}

// documents are the texts for users.
func documents(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(docs, "*.md"))
	if err != nil || len(files) < 4 {
		t.Fatalf("documents: %v, %v", files, err)
	}
	out := map[string]string{}
	for _, f := range append(files, "../../README.md") {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = string(data)
	}
	return out
}

// Every vctl command line that the documents show exists, with its options and number of operands.
func TestDocumentedCommandsExist(t *testing.T) {
	shown := regexp.MustCompile("(?m)^    (?:bin/)?(vctl [^#\n]*)|`(vctl [^`]*)`")
	n := 0
	for file, text := range documents(t) {
		for _, m := range shown.FindAllStringSubmatch(text, -1) {
			line := strings.TrimSpace(m[1] + m[2])
			n++
			if why := parses(strings.Fields(line)); why != "" {
				t.Errorf("%s shows %q: %s", file, line, why)
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d command lines found in the documents", n)
	}
}

// parses says what is wrong with a command line, without running it.
func parses(args []string) string {
	a := app(strings.NewReader(""), new(strings.Builder), new(strings.Builder))
	reached := false
	for _, c := range a.Commands {
		if len(c.Subcommands) == 0 {
			c.Action = func(*cli.Context) error { reached = true; return nil }
		}
		for _, sub := range c.Subcommands {
			sub.Action = func(*cli.Context) error { reached = true; return nil }
		}
	}
	if err := a.Run(optionsFirst(a, args)); err != nil {
		return err.Error()
	}
	if !reached {
		return "no such command"
	}
	return ""
}

// The domain documents that the texts show can be defined.
func TestDocumentedDomainsAreAccepted(t *testing.T) {
	n := 0
	for file, text := range documents(t) {
		for _, m := range regexp.MustCompile("(?s)```xml\n(<domain.*?)```").FindAllStringSubmatch(text, -1) {
			n++
			if _, err := domain.Parse(m[1], domain.Options{Validate: true}); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	if n == 0 {
		t.Error("no domain document found")
	}
}

// The vocabulary in the documentation is the one that the program goes by.
func TestDocumentedVocabularyIsCurrent(t *testing.T) {
	schema, err := os.ReadFile("../../domain/schema.txt")
	if err != nil {
		t.Fatal(err)
	}
	text := documents(t)["domain-xml.md"]
	begin, end := strings.Index(text, "```text\n"), strings.LastIndex(text, "```")
	if begin < 0 || end < begin {
		t.Fatal("docs/domain-xml.md has no vocabulary")
	}
	begin += len("```text\n")
	if *update && text[begin:end] != string(schema) {
		text = text[:begin] + string(schema) + text[end:]
		if err := os.WriteFile(filepath.Join(docs, "domain-xml.md"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if text[begin:end] != string(schema) {
		t.Error("docs/domain-xml.md lists another vocabulary than domain/schema.txt: go test ./cmd/vctl -update")
	}
}
