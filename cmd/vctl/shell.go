package main

import (
	"fmt"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

// domainFilter chooses which domains a shell completes.
type domainFilter int

const (
	anyDomain domainFilter = iota
	activeDomain
	inactiveDomain
)

// completeDomains prints the names that the first argument can be. It is silent on failure: a shell is no place for
// errors.
func completeDomains(which domainFilter) cli.BashCompleteFunc {
	return func(c *cli.Context) {
		if c.NArg() > 0 {
			return
		}
		s, err := open(c)
		if err != nil {
			return
		}
		defer s.Close()
		flags := libvirt.ConnectListDomainsActive | libvirt.ConnectListDomainsInactive
		switch which {
		case activeDomain:
			flags = libvirt.ConnectListDomainsActive
		case inactiveDomain:
			flags = libvirt.ConnectListDomainsInactive
		}
		domains, _, err := s.ConnectListAllDomains(1, flags)
		if err != nil {
			return
		}
		for _, d := range domains {
			fmt.Fprintln(c.App.Writer, d.Name)
		}
	}
}

func shellCommands() []*cli.Command {
	return []*cli.Command{
		{Name: "completion", Category: "Help", Usage: "print a shell's completion script", ArgsUsage: "bash|zsh|fish",
			Description: "For bash: source <(vctl completion bash)",
			Action: func(c *cli.Context) error {
				switch shell := c.Args().First(); shell {
				case "bash":
					fmt.Fprint(c.App.Writer, bashCompletion)
				case "zsh":
					fmt.Fprint(c.App.Writer, zshCompletion)
				case "fish":
					script, err := c.App.ToFishCompletion()
					if err != nil {
						return err
					}
					fmt.Fprint(c.App.Writer, script)
				default:
					return fmt.Errorf("no completion for shell '%s'; use bash, zsh or fish", shell)
				}
				return nil
			}},
		{Name: "man", Hidden: true, Usage: "print the manual page",
			Action: func(c *cli.Context) error {
				page, err := c.App.ToManWithSection(8)
				if err != nil {
					return err
				}
				_, err = fmt.Fprint(c.App.Writer, page)
				return err
			}},
	}
}

const bashCompletion = `_vctl() {
	local cur opts
	cur="${COMP_WORDS[COMP_CWORD]}"
	if [[ "$cur" == -* ]]; then
		opts=$("${COMP_WORDS[@]:0:$COMP_CWORD}" "$cur" --generate-bash-completion 2>/dev/null)
	else
		opts=$("${COMP_WORDS[@]:0:$COMP_CWORD}" --generate-bash-completion 2>/dev/null)
	fi
	COMPREPLY=($(compgen -W "$opts" -- "$cur"))
}
complete -o bashdefault -o default -F _vctl vctl
`

const zshCompletion = `#compdef vctl
_vctl() {
	local -a opts
	opts=("${(@f)$(${words[@]:0:#words[@]-1} --generate-bash-completion 2>/dev/null)}")
	_describe 'values' opts
}
compdef _vctl vctl
`
