// Package policy holds the rules of this repository as tests: where unsafe code may stand, who may import whom, what
// the engine's binary may contain, that every package says what it is for. It has no code of its own; start reading
// at the tests, each of which gives the reason for its rule.
package policy
