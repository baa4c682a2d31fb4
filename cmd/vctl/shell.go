package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func shellCommands() []*cli.Command {
	return []*cli.Command{
		{Name: "completion", Category: "Help", Usage: "print a shell's completion script", ArgsUsage: "bash|zsh|fish",
			Description: "Completes commands, options, and the names of domains, networks, pools, volumes and devices that the daemon has. For bash, and with zsh in place of bash for zsh:\n\n" +
				"    source <(vctl completion bash)\n\n" +
				"For fish:\n\n" +
				"    vctl completion fish > ~/.config/fish/completions/vctl.fish",
			BashComplete: func(c *cli.Context) {
				if c.NArg() == 0 {
					fmt.Fprintln(c.App.Writer, "bash\nzsh\nfish")
				}
			},
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
					fmt.Fprint(c.App.Writer, script, fishOperands)
				default:
					return fmt.Errorf("no completion for shell '%s'; use bash, zsh or fish", shell)
				}
				return nil
			}},
		{Name: "man", Hidden: true, Usage: "print the manual page",
			Action: func(c *cli.Context) error {
				page, err := manual(c.App)
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
	local -a opts ask
	ask=("${words[@]:0:$((CURRENT-1))}")
	[[ "${words[CURRENT]}" == -* ]] && ask+=("${words[CURRENT]}")
	opts=(${(f)"$("${ask[@]}" --generate-bash-completion 2>/dev/null)"})
	if (( $#opts )); then
		compadd -a opts
	else
		_files
	fi
}
compdef _vctl vctl
`

// fishOperands adds to what cli knows by itself, commands and options, what only the daemon knows.
const fishOperands = `
function __fish_vctl_operands
    set -l words (commandline -opc)
    $words --generate-bash-completion 2>/dev/null
end
complete -c vctl -n 'not __fish_vctl_no_subcommand' -a '(__fish_vctl_operands)'
`
