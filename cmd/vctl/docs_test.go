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
	var out, errs strings.Builder
	if status := run(t.Context(), []string{"vctl", "man"}, nil, &out, &errs); status != 0 {
		t.Fatal(errs.String())
	}
	page, file := out.String(), filepath.Join(docs, "man", "vctl.8")
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

// manualExamples are the lines of vctl(8) that are set in as code, as documents have them.
func manualExamples(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(docs, "man", "vctl.8"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, block := range regexp.MustCompile(`(?s)\n\.EX\n(.*?)\n\.EE\n`).FindAllStringSubmatch(string(page), -1) {
		for line := range strings.Lines(block[1] + "\n") {
			b.WriteString("    " + line)
		}
	}
	return b.String()
}

// Every vctl command line that the documents show exists, with its options and, in code that is set in, its operands. In
// running text a command may stand without them.
func TestDocumentedCommandsExist(t *testing.T) {
	shown := regexp.MustCompile("(?m)^    (?:bin/)?(vctl [^#\n]*)|`(vctl [^`]*)`")
	texts, n := documents(t), map[string]int{}
	texts["vctl.8"] = manualExamples(t)
	for file, text := range texts {
		for _, m := range shown.FindAllStringSubmatch(text, -1) {
			n[file]++
			if why := parses(shellWords(m[1]+m[2]), m[1] != ""); why != "" {
				t.Errorf("%s shows %q: %s", file, m[1]+m[2], why)
			}
		}
	}
	if n["vctl.8"] < 20 || n["getting-started.md"] < 10 {
		t.Errorf("command lines found: %v", n)
	}
}

// shellWords splits a command line as a shell does, up to a pipe or redirection.
func shellWords(line string) (words []string) {
	for _, w := range regexp.MustCompile(`(?:"[^"]*"|'[^']*'|[^\s"'])+`).FindAllString(line, -1) {
		if strings.ContainsAny(w[:1], "|<>") {
			break
		}
		if quote := w[0]; quote == '"' || quote == '\'' {
			w = strings.Trim(w, string(quote))
		}
		words = append(words, w)
	}
	return words
}

// parses says what is wrong with a command line, without running it.
func parses(args []string, operands bool) string {
	a := app(strings.NewReader(""), new(strings.Builder), new(strings.Builder))
	reached := false
	for _, c := range manualEntries("", a.Commands) {
		if len(c.Subcommands) > 0 { // a group does nothing itself
			continue
		}
		c.Action = func(*cli.Context) error { reached = true; return nil }
		if !operands {
			c.Before = nil
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
