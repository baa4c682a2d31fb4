package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// protocol is what one .x file says.
type protocol struct {
	prefix  string // of the procedure constants
	procs   []proc
	structs map[string][]field // by the struct's name in the file
	consts  map[string]uint32
}

// proc is one procedure with its annotations.
type proc struct {
	name                    string // without prefix, upper case
	number                  int
	high                    bool
	readStream, writeStream bool
	acl                     []string
	noStub                  bool
}

// field is one member of a struct; limit is the longest allowed array, 0 for a scalar.
type field struct {
	name  string
	limit uint32
}

func (p *protocol) structPrefix() string {
	if p.prefix == "QEMU_PROC_" {
		return "qemu_"
	}
	return "remote_"
}

var (
	reConst  = regexp.MustCompile(`^const\s+(\w+)\s*=\s*([^;]+?)\s*;`)
	reStruct = regexp.MustCompile(`^struct\s+(\w+)\s*\{`)
	reField  = regexp.MustCompile(`^\s*(?:unsigned\s+)?\w+\s+\*?(\w+)\s*(?:<([^>]*)>|\[[^\]]*\])?\s*;`)
	reProc   = regexp.MustCompile(`^\s*(\w+_PROC_)(\w+)\s*=\s*(\d+)`)
	reNote   = regexp.MustCompile(`\*\s*@(\w+):\s*(\S+)`)
)

// stringMax bounds arrays that the file leaves open: libvirt's REMOTE_STRING_MAX.
const stringMax = 4 << 20

func loadProtocol(path, prefix string) (*protocol, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p := &protocol{prefix: prefix, structs: map[string][]field{}, consts: publicConsts()}
	current := ""
	var notes proc
	for n, line := range strings.Split(string(b), "\n") {
		if m := reConst.FindStringSubmatch(line); m != nil {
			p.constant(m[1], m[2])
			continue
		}
		if m := reStruct.FindStringSubmatch(line); m != nil {
			current = m[1]
			p.structs[current] = nil
			continue
		}
		if strings.HasPrefix(line, "}") {
			current = ""
			continue
		}
		if current != "" {
			if err := p.member(current, line); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, n+1, err)
			}
			continue
		}
		if m := reNote.FindStringSubmatch(line); m != nil {
			notes.annotate(m[1], m[2])
		}
		if m := reProc.FindStringSubmatch(line); m != nil && m[1] == prefix {
			notes.name = m[2]
			notes.number, _ = strconv.Atoi(m[3])
			p.procs = append(p.procs, notes)
			notes = proc{}
		}
	}
	return p, nil
}

func (p *protocol) constant(name, value string) {
	if v, err := strconv.ParseUint(value, 0, 32); err == nil {
		p.consts[name] = uint32(v)
	} else if v, ok := p.consts[value]; ok {
		p.consts[name] = v
	}
}

func (p *protocol) member(in, line string) error {
	m := reField.FindStringSubmatch(line)
	if m == nil {
		return nil // comment or blank
	}
	f := field{name: m[1]}
	if strings.Contains(line, "<") && strings.Contains(strings.SplitN(line, ";", 2)[0], "<") {
		f.limit = stringMax
		if m[2] != "" {
			v, ok := p.consts[m[2]]
			if !ok {
				n, err := strconv.ParseUint(m[2], 0, 32)
				if err != nil {
					return fmt.Errorf("unknown limit %s", m[2])
				}
				v = uint32(n)
			}
			f.limit = v
		}
	}
	p.structs[in] = append(p.structs[in], f)
	return nil
}

func (pr *proc) annotate(key, value string) {
	switch key {
	case "priority":
		pr.high = value == "high"
	case "readstream":
		pr.readStream = true
	case "writestream":
		pr.writeStream = true
	case "acl":
		pr.acl = append(pr.acl, value)
	}
}

// publicConsts are the sizes that the .x file takes from libvirt's public headers.
func publicConsts() map[string]uint32 {
	return map[string]uint32{
		"VIR_UUID_BUFLEN":           16,
		"VIR_SECURITY_LABEL_BUFLEN": 4097,
		"VIR_SECURITY_MODEL_BUFLEN": 257,
		"VIR_SECURITY_DOI_BUFLEN":   257,
	}
}
