package sasl

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/xdg-go/scram"
	"github.com/xdg-go/stringprep"
	"golang.org/x/sys/unix"

	"virtd/durable"
)

// iterations is how often a password is hashed (PBKDF2), by the client at each connection and by whoever guesses from a
// stolen file. RFC 7677 asks for 4096 at least; Cyrus SASL's clients refuse more than 65536.
const iterations = 32768

const (
	fileVersion = 1
	maxFile     = 16 << 20 // bytes; 50,000 users are less
	maxName     = 255      // bytes
	maxPassword = 1024     // bytes
	saltSize    = 16
)

// Users are the names and keys in one file. Methods may be called from any goroutine and, as each reads the file anew, while
// other processes change it.
type Users struct{ path string }

// NewUsers returns the users in the file path, which need not exist.
func NewUsers(path string) *Users { return &Users{path} }

// Path returns the file's name.
func (u *Users) Path() string { return u.path }

// file is what the file holds, in JSON.
type file struct {
	Version    int             `json:"version"`
	Iterations int             `json:"iterations"` // of every user, so that it tells nobody apart
	Decoy      []byte          `json:"decoy"`      // makes the salts of users who do not exist
	Users      map[string]keys `json:"users"`
}

// keys are what RFC 5802, section 3, says a server stores. Passwords cannot be had from them but by guessing.
type keys struct {
	Salt      []byte `json:"salt"`
	StoredKey []byte `json:"storedKey"`
	ServerKey []byte `json:"serverKey"`
}

// Set stores a user with a password, or another password for one who exists, and reports whether the user is new. It returns
// when the change would survive a power cut.
func (u *Users) Set(name, password string) (added bool, err error) {
	if name, err = checkName(name); err != nil {
		return false, err
	}
	if password == "" || len(password) > maxPassword {
		return false, fmt.Errorf("the password of user '%s' must have from 1 to %d bytes", name, maxPassword)
	}
	err = u.change(func(f *file) error {
		client, err := scram.SHA256.NewClient(name, password, "")
		if err != nil {
			return fmt.Errorf("the password of user '%s' has characters that cannot be part of one: %w", name, err)
		}
		salt := make([]byte, saltSize)
		rand.Read(salt)
		stored, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: f.Iterations})
		if err != nil {
			return fmt.Errorf("derive the keys of user '%s': %w", name, err)
		}
		_, exists := f.Users[name]
		added = !exists
		f.Users[name] = keys{Salt: salt, StoredKey: stored.StoredKey, ServerKey: stored.ServerKey}
		return nil
	})
	return added, err
}

// Remove forgets a user. Connections that the user has stay.
func (u *Users) Remove(name string) error {
	return u.change(func(f *file) error {
		if _, ok := f.Users[name]; !ok {
			return fmt.Errorf("there is no user '%s' in %s", name, u.path)
		}
		delete(f.Users, name)
		return nil
	})
}

// List returns the names, sorted.
func (u *Users) List() ([]string, error) {
	f, err := u.read()
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(f.Users))
	for name := range f.Users {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// credentials returns what a conversation with a user needs. For one who does not exist it invents some that no password
// fits and that are the same each time.
func (u *Users) credentials(name string) (scram.StoredCredentials, error) {
	f, err := u.read()
	if err != nil {
		return scram.StoredCredentials{}, err
	}
	// Both are worked out for everyone, so that the time tells nothing.
	k := f.decoy(name)
	if known, ok := f.Users[name]; ok {
		k = known
	}
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(k.Salt), Iters: f.Iterations}, StoredKey: k.StoredKey, ServerKey: k.ServerKey,
	}, nil
}

func (f *file) decoy(name string) keys {
	derive := func(what string) []byte {
		mac := hmac.New(sha256.New, f.Decoy)
		mac.Write([]byte(what))
		mac.Write([]byte(name))
		return mac.Sum(nil)
	}
	return keys{Salt: derive("salt")[:saltSize], StoredKey: derive("stored"), ServerKey: derive("server")}
}

// change rewrites the file, one process at a time.
func (u *Users) change(edit func(*file) error) error {
	dir := filepath.Dir(u.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory for users: %w", err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("lock the directory for users: %w", err)
	}
	defer lock.Close() // and with it the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	f, err := u.read()
	if err != nil {
		return err
	}
	if err := edit(f); err != nil {
		return err
	}
	data, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	return durable.Write(u.path, append(data, '\n'))
}

// read returns what the file holds, or a new content where there is none.
func (u *Users) read() (*file, error) {
	f, err := u.parse()
	if errors.Is(err, fs.ErrNotExist) {
		f = &file{Version: fileVersion, Iterations: iterations, Decoy: make([]byte, sha256.Size), Users: map[string]keys{}}
		rand.Read(f.Decoy)
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the users in %s: %w", u.path, err)
	}
	return f, nil
}

func (u *Users) parse() (*file, error) {
	in, err := os.Open(u.path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	st, err := in.Stat()
	switch {
	case err != nil:
		return nil, err
	case st.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("others than the owner may read or write it (mode %04o): chmod 600, and give the users new passwords", st.Mode().Perm())
	case st.Size() > maxFile:
		return nil, fmt.Errorf("it has %d bytes, more than %d", st.Size(), maxFile)
	}
	return decode(in)
}

// checkName returns a name in the form in which clients send it, or says what is wrong with it.
func checkName(name string) (string, error) {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		return "", fmt.Errorf("a user's name has from 1 to %d bytes of UTF-8", maxName)
	}
	for _, r := range name {
		if unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return "", fmt.Errorf("user's name %q: %q cannot be part of it", name, r)
		}
	}
	prepared, err := stringprep.SASLprep.Prepare(name)
	if err != nil {
		return "", fmt.Errorf("user's name %q cannot be one: %w", name, err)
	}
	return prepared, nil
}
