package sasl

import (
	"fmt"

	"github.com/xdg-go/scram"
)

// Client is a client's side of one conversation. It belongs to one goroutine.
type Client struct{ conv *scram.ClientConversation }

// NewClient returns the side of a user with a password.
func NewClient(name, password string) (*Client, error) {
	c, err := scram.SHA256.NewClient(name, password, "")
	if err != nil {
		return nil, fmt.Errorf("name or password of user %q cannot be one: %w", name, err)
	}
	return &Client{c.NewConversation()}, nil
}

// Step takes what the server said, nothing at first, and returns what it is to be told. An error means that the server is
// not what it claims to be, or refuses.
func (c *Client) Step(challenge []byte) ([]byte, error) {
	out, err := c.conv.Step(string(challenge))
	return []byte(out), err
}

// Verified reports whether the server proved that it knows the user's keys.
func (c *Client) Verified() bool { return c.conv.Valid() }
