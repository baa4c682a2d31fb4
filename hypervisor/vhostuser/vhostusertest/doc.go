// Package vhostusertest is a vhost-user back end for tests: it maps the front end's memory and serves its rings with the
// engine's own queues. It answers as the specification says, or as a hostile test tells it to. Start reading at Backend.
package vhostusertest
