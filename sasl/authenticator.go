package sasl

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/xdg-go/scram"
)

// Mechanism is the only one.
const Mechanism = "SCRAM-SHA-256"

// maxMessage bounds what a client sends in one step, in bytes: a name, a nonce and keys are far less.
const maxMessage = 8 << 10

// Authenticator is the server's side. It may be used by any number of goroutines.
type Authenticator struct {
	server  *scram.Server
	allowed []*regexp.Regexp // nil: every user
}

// NewAuthenticator returns one that accepts users whose names match one of the patterns, in which * stands for any characters
// and ? for one; nil accepts all users, an empty list none.
func NewAuthenticator(users *Users, allowed []string) *Authenticator {
	a := &Authenticator{}
	// It fails only for a hash that Go would not have.
	a.server, _ = scram.SHA256.NewServer(users.credentials)
	if allowed != nil {
		a.allowed = []*regexp.Regexp{}
	}
	for _, p := range allowed {
		expr := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(p))
		a.allowed = append(a.allowed, regexp.MustCompile(`(?s)^`+expr+`$`))
	}
	return a
}

// Conversation is one client's attempt. It belongs to one goroutine at a time.
type Conversation struct {
	auth *Authenticator
	conv *scram.ServerConversation
}

// Begin starts a conversation by the mechanism that the client chose.
func (a *Authenticator) Begin(mechanism string) (*Conversation, error) {
	if mechanism != Mechanism {
		return nil, fmt.Errorf("mechanism %.40q is not offered", mechanism)
	}
	return &Conversation{a, a.server.NewConversation()}, nil
}

// Step takes what the client said and returns what it is to be told. done reports that the client proved who it is. After an
// error the conversation is over; the error is for the log, as it says more than a stranger may know.
func (c *Conversation) Step(response []byte) (challenge []byte, done bool, err error) {
	if len(response) > maxMessage {
		return nil, false, fmt.Errorf("%d bytes in one step", len(response))
	}
	out, err := c.conv.Step(string(response))
	if err != nil {
		return nil, false, err
	}
	if !c.conv.Valid() {
		return []byte(out), false, nil
	}
	// Only now: who has not proved to be a user learns nothing about who may be one.
	if id := c.conv.AuthzID(); id != "" && id != c.Name() {
		return nil, false, fmt.Errorf("the client wants to act as %.40q", id)
	}
	if !c.auth.allows(c.Name()) {
		return nil, false, errors.New("no pattern of sasl_allowed_username_list allows the user")
	}
	return []byte(out), true, nil
}

// Name returns the user's name as the client gave it, in the first step; it is proved when Step reports done.
func (c *Conversation) Name() string { return c.conv.Username() }

func (a *Authenticator) allows(name string) bool {
	if a.allowed == nil {
		return true
	}
	for _, p := range a.allowed {
		if p.MatchString(name) {
			return true
		}
	}
	return false
}
