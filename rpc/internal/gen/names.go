package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// goStruct is a struct type of go-libvirt.
type goStruct struct {
	name   string
	fields int
}

// ref is how package rpc names the type. Structs that go-libvirt cannot carry have a replacement in package rpc.
func (g goStruct) ref() string {
	switch g.name {
	case "DomainDiskError", "DomainGetDiskErrorsRet":
		return g.name
	}
	return "libvirt." + g.name
}

// normalize is the form in which a name of the .x file and go-libvirt's name for it are equal.
func normalize(name string) string {
	n := strings.TrimPrefix(name, "remote_")
	n = strings.TrimPrefix(n, "nonnull_")
	return strings.ToLower(strings.ReplaceAll(n, "_", ""))
}

func loadGoTypes() (map[string]goStruct, error) {
	dir, err := goModuleDir()
	if err != nil {
		return nil, err
	}
	types := map[string]goStruct{}
	for _, name := range []string{"remote_protocol.gen.go", "qemu_protocol.gen.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			gd, ok := d.(*ast.GenDecl)
			if !ok || gd.Tok != token.TYPE {
				continue
			}
			for _, s := range gd.Specs {
				ts := s.(*ast.TypeSpec)
				if st, ok := ts.Type.(*ast.StructType); ok {
					types[normalize(ts.Name.Name)] = goStruct{ts.Name.Name, st.Fields.NumFields()}
				}
			}
		}
	}
	return types, nil
}

// camel turns DOMAIN_GET_XML_DESC into DomainGetXMLDesc.
func camel(name string) string {
	var b strings.Builder
	for _, w := range strings.Split(name, "_") {
		switch w {
		case "XML", "UUID", "CPU", "ID", "IO", "IP", "URI":
			b.WriteString(w)
		default:
			b.WriteString(w[:1] + strings.ToLower(w[1:]))
		}
	}
	return b.String()
}

// api is a public call of libvirt's C library.
type api struct {
	name  string
	write bool // it refuses a read-only connection whatever its arguments
}

var reFunc = regexp.MustCompile(`^(?:\w[\w\s]*[\s*])?(vir\w+)\(`)

// loadAPIs finds the public calls and whether they refuse read-only connections, by their name in lower case.
func loadAPIs(src string) (map[string]api, error) {
	files, err := filepath.Glob(filepath.Join(src, "libvirt*.c"))
	if err != nil {
		return nil, err
	}
	apis := map[string]api{}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		scanAPIs(string(b), apis)
	}
	if len(apis) == 0 {
		return nil, fmt.Errorf("no public calls found under %s", src)
	}
	return apis, nil
}

func scanAPIs(text string, apis map[string]api) {
	current, previous := "", ""
	for _, line := range strings.Split(text, "\n") {
		if m := reFunc.FindStringSubmatch(line); m != nil {
			current = m[1]
			apis[strings.ToLower(current)] = api{name: current}
		}
		if current != "" && strings.Contains(line, "virCheckReadOnlyGoto") && !strings.Contains(previous, "if (") {
			apis[strings.ToLower(current)] = api{name: current, write: true}
		}
		if line == "}" {
			current = ""
		}
		previous = line
	}
}

// renamed lists procedures whose public call has another name.
var renamed = map[string]string{
	"CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY":   "virConnectDomainEventRegisterAny",
	"CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY": "virConnectDomainEventDeregisterAny",
	"CONNECT_DOMAIN_MONITOR_EVENT_REGISTER":        "virConnectDomainQemuMonitorEventRegister",
	"CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER":      "virConnectDomainQemuMonitorEventDeregister",
	"DOMAIN_MONITOR_COMMAND":                       "virDomainQemuMonitorCommand",
	"DOMAIN_MONITOR_COMMAND_WITH_FILES":            "virDomainQemuMonitorCommandWithFiles",
	"DOMAIN_ATTACH":                                "virDomainQemuAttach",
	"DOMAIN_AGENT_COMMAND":                         "virDomainQemuAgentCommand",
	"DOMAIN_GET_VCPU_PIN_INFO":                     "virDomainGetVcpuPinInfo",
	"DOMAIN_OPEN_GRAPHICS_FD":                      "virDomainOpenGraphicsFD",
	"DOMAIN_FD_ASSOCIATE":                          "virDomainFDAssociate",
}

func apiFor(prefix string, pr proc, apis map[string]api) (api, bool) {
	name := "vir" + camel(pr.name)
	if r, ok := renamed[pr.name]; ok {
		name = r
	}
	if a, ok := apis[strings.ToLower(name)]; ok {
		return a, true
	}
	if strings.HasPrefix(pr.name, "AUTH_") {
		return api{name: name}, true // the connection's own: they come before it is known to be read-only
	}
	log.Printf("no public call for %s%s", prefix, pr.name)
	return api{name: name}, false
}

func isMessage(pr proc) bool {
	return strings.Contains(pr.name, "_EVENT_") && !strings.Contains(pr.name, "REGISTER") ||
		pr.name == "DOMAIN_MONITOR_EVENT"
}

// readPermissions are the access permissions that libvirt's default policy gives to everyone who may connect read-only.
var readPermissions = map[string]bool{"getattr": true, "read": true, "none": true}

// readOnlyAllowed combines both of libvirt's rules and allows a call only when neither speaks against it.
func readOnlyAllowed(pr proc, a api, known bool) bool {
	acl := true
	for _, rule := range pr.acl {
		parts := strings.Split(rule, ":")
		if len(parts) > 2 {
			continue // applies with a flag only: see readonly.go
		}
		perm := parts[len(parts)-1]
		if !readPermissions[perm] && !strings.HasPrefix(perm, "search_") {
			acl = false
		}
	}
	if known && acl == a.write {
		log.Printf("%s: call refuses read-only: %t, permissions %v", pr.name, a.write, pr.acl)
	}
	return acl && known && !a.write
}
