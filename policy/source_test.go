package policy

import (
	"fmt"
	"go/ast"
	"go/format"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Unsafe code is where memory safety is argued by hand, so a reviewer must be able to list it by file name.
func TestUnsafeOnlyInFilesNamedSo(t *testing.T) {
	name := regexp.MustCompile(`_unsafe(_[a-z0-9]+)*\.go$`)
	found := 0
	for _, s := range tree(t) {
		if !slices.Contains(s.imports, "unsafe") {
			continue
		}
		found++
		if !name.MatchString(s.file) {
			t.Errorf("%s imports unsafe: move that code to a file named *_unsafe.go", s.file)
		}
	}
	if found == 0 {
		t.Error("no file imports unsafe at all: does this test still see the tree?")
	}
}

// The three programs are static, so that they run on any distribution and in the lab.
func TestNoCgo(t *testing.T) {
	for _, s := range tree(t) {
		if slices.Contains(s.imports, "C") {
			t.Errorf("%s uses cgo", s.file)
		}
	}
}

// A package says what it is for, what it leaves out and where to start reading, in doc.go.
func TestEveryPackageHasADocComment(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range tree(t) {
		if s.test() {
			continue
		}
		doc := s.syntax.Doc.Text()
		ok := documented[s.pkg()]
		documented[s.pkg()] = ok || strings.HasPrefix(doc, "Package "+s.syntax.Name.Name+" ") ||
			s.syntax.Name.Name == "main" && strings.HasPrefix(doc, "Command "+path.Base(s.pkg())+" ")
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment (\"Package X ...\" or \"Command X ...\")", pkg)
		}
	}
}

// What is unfinished stands in an issue, not in the code.
func TestNoUnfinishedMarks(t *testing.T) {
	mark := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	for _, s := range tree(t) {
		for i, line := range strings.Split(s.text, "\n") {
			if mark.MatchString(line) {
				t.Errorf("%s:%d: %s", s.file, i+1, strings.TrimSpace(line))
			}
		}
	}
}

func TestFormatted(t *testing.T) {
	for _, s := range tree(t) {
		out, err := format.Source([]byte(s.text))
		if err != nil {
			t.Errorf("%s: %v", s.file, err)
		} else if string(out) != s.text {
			t.Errorf("%s is not formatted: gofmt -w %s", s.file, s.file)
		}
	}
}

// lab/test.sh runs the tests named TestLab..., so a test that needs the lab under another name would never run.
func TestNamesOfLabTests(t *testing.T) {
	for _, s := range tree(t) {
		if !s.test() || s.pkg() == "lab/labtest" {
			continue
		}
		for _, d := range s.syntax.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(f.Name.Name, "Test") {
				continue
			}
			needs := false
			ast.Inspect(f, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					needs = needs || fmt.Sprint(sel.X) == "labtest" && sel.Sel.Name == "Need"
				}
				return true
			})
			if lab := strings.HasPrefix(f.Name.Name, "TestLab"); needs && !lab {
				t.Errorf("%s: %s needs the lab: call it TestLab...", s.file, f.Name.Name)
			}
		}
	}
}
