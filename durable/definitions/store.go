package definitions

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"virtd/durable"
	"virtd/virterr"
)

// Files of a store:
//
//	STATE/UUID.xml        a definition
//	STATE/UUID.autostart  empty: start it with the host
//	STATE/default-KIND    empty: the default object was made once; who removes it does not get it back
//	RUN/UUID.xml          the definition of an active object, by which the next virtd finds it active
//	RUN/autostarted       empty: objects were started for this boot
const (
	definitionExt   = ".xml"
	autostartExt    = ".autostart"
	defaultMark     = "default-"
	autostartedMark = "autostarted"
)

// Kind says what definitions of type D are.
type Kind[D any] struct {
	Name     string                       // in messages, as "network"
	From     virterr.From                 // of errors
	Parse    func(text string) (D, error) // reads what XML wrote
	XML      func(D) string
	Identity func(D) (uuid.UUID, string) // with its name
	MaxSize  int64                       // of a document that Parse takes, in bytes
}

// Store keeps the definitions of one kind. The state directory survives a boot of the host, the run directory does not.
// What its methods report done stays done after a crash or a power cut. Its callers serialize changes.
type Store[D any] struct {
	kind       Kind[D]
	state, run string
}

// Open makes the directories that are missing.
func Open[D any](kind Kind[D], state, run string) (*Store[D], error) {
	s := &Store[D]{kind, state, run}
	for _, dir := range []string{state, run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, s.failure("cannot create directory '%s': %w", dir, virterr.Strerror(err))
		}
	}
	return s, nil
}

// Problem is a file that could not be understood. It is left where it is.
type Problem struct {
	Path string
	Err  error
}

// Defined returns the persistent definitions, and the files that could not be understood.
func (s *Store[D]) Defined() ([]D, []Problem, error) { return s.read(s.state) }

// Active returns the definitions of what is active, and the files that could not be understood.
func (s *Store[D]) Active() ([]D, []Problem, error) { return s.read(s.run) }

func (s *Store[D]) read(dir string) ([]D, []Problem, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, s.failure("cannot read directory '%s': %w", dir, virterr.Strerror(err))
	}
	var defs []D
	var problems []Problem
	for _, e := range list {
		base, ok := strings.CutSuffix(e.Name(), definitionExt)
		if !ok || strings.HasPrefix(base, ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		def, err := s.readFile(path)
		if err == nil {
			if id, name := s.kind.Identity(def); id.String() != base {
				err = fmt.Errorf("holds %s '%s' with another UUID, %s", s.kind.Name, name, id)
			}
		}
		if err != nil {
			problems = append(problems, Problem{path, err})
			continue
		}
		defs = append(defs, def)
	}
	return defs, problems, nil
}

func (s *Store[D]) readFile(path string) (def D, err error) {
	f, err := os.Open(path)
	if err != nil {
		return def, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, s.kind.MaxSize+1))
	if err != nil {
		return def, err
	}
	return s.kind.Parse(string(text))
}

// Save makes a definition the persistent one of its UUID.
func (s *Store[D]) Save(d D) error { return s.write(s.definitionPath(s.id(d)), s.kind.XML(d)) }

// Forget removes a definition. Its mark goes first: a mark without a definition would start the next object of that UUID.
func (s *Store[D]) Forget(id uuid.UUID) error {
	if err := s.remove(s.autostartPath(id)); err != nil {
		return err
	}
	return s.remove(s.definitionPath(id))
}

// Autostart reports whether an object starts with the host.
func (s *Store[D]) Autostart(id uuid.UUID) bool {
	_, err := os.Stat(s.autostartPath(id))
	return err == nil
}

// SetAutostart changes that.
func (s *Store[D]) SetAutostart(id uuid.UUID, on bool) error {
	if on {
		return s.write(s.autostartPath(id), "")
	}
	return s.remove(s.autostartPath(id))
}

// SetActive notes that an object is active with this definition.
func (s *Store[D]) SetActive(d D) error { return s.write(s.activePath(s.id(d)), s.kind.XML(d)) }

// SetInactive notes that an object is active no longer.
func (s *Store[D]) SetInactive(id uuid.UUID) error { return s.remove(s.activePath(id)) }

// Autostarted reports whether NoteAutostarted was called since the host's boot.
func (s *Store[D]) Autostarted() bool {
	_, err := os.Stat(filepath.Join(s.run, autostartedMark))
	return err == nil
}

// NoteAutostarted notes that what starts with the host was started: what somebody stops now stays stopped when virtd is
// started again.
func (s *Store[D]) NoteAutostarted() error { return s.write(filepath.Join(s.run, autostartedMark), "") }

// DefaultMade reports whether NoteDefaultMade was ever called.
func (s *Store[D]) DefaultMade() (bool, error) {
	_, err := os.Stat(s.defaultPath())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// NoteDefaultMade notes that the default object was made.
func (s *Store[D]) NoteDefaultMade() error { return s.write(s.defaultPath(), "") }

func (s *Store[D]) id(d D) uuid.UUID {
	id, _ := s.kind.Identity(d)
	return id
}

func (s *Store[D]) definitionPath(id uuid.UUID) string {
	return filepath.Join(s.state, id.String()+definitionExt)
}

func (s *Store[D]) autostartPath(id uuid.UUID) string {
	return filepath.Join(s.state, id.String()+autostartExt)
}

func (s *Store[D]) activePath(id uuid.UUID) string {
	return filepath.Join(s.run, id.String()+definitionExt)
}

func (s *Store[D]) defaultPath() string { return filepath.Join(s.state, defaultMark+s.kind.Name) }

func (s *Store[D]) write(path, text string) error {
	return s.fileError(durable.Write(path, []byte(text)))
}

func (s *Store[D]) remove(path string) error { return s.fileError(durable.Remove(path)) }

func (s *Store[D]) fileError(err error) error {
	if err == nil {
		return nil
	}
	return s.failure("%w", err)
}

func (s *Store[D]) failure(format string, args ...any) error {
	return virterr.NewFrom(s.kind.From, virterr.SystemError, format, args...)
}
