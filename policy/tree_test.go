package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// module is the name that our import paths begin with.
const module = "virtd/"

// A source is one parsed Go file.
type source struct {
	file    string // below the root of the repository, with slashes
	text    string
	syntax  *ast.File
	fset    *token.FileSet
	imports []string
}

// pkg is the folder of the file, which is its import path without the module.
func (s source) pkg() string { return path.Dir(s.file) }

func (s source) test() bool { return strings.HasSuffix(s.file, "_test.go") }

var readTree = sync.OnceValues(func() ([]source, error) {
	var out []source
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p == "out" || p == "bin" || name == "testdata" || len(name) > 1 && name[0] == '.' {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		b, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		s := source{file: p, text: string(b), fset: token.NewFileSet()}
		s.syntax, err = parser.ParseFile(s.fset, p, b, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, i := range s.syntax.Imports {
			v, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, v)
		}
		out = append(out, s)
		return nil
	})
	return out, err
})

// tree returns all Go files of the repository.
func tree(t *testing.T) []source {
	t.Helper()
	out, err := readTree()
	if err != nil {
		t.Fatalf("reading the source tree: %v", err)
	}
	if len(out) < 20 {
		t.Fatalf("found only %d Go files: not run inside the repository?", len(out))
	}
	return out
}

// read returns a file of the repository.
func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// within says whether a package is a folder or below it.
func within(pkg, folder string) bool {
	return pkg == folder || strings.HasPrefix(pkg, folder+"/")
}
