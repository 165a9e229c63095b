package main

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

const completionHelp = `Write a script for a shell, which asks this program what may stand at the cursor: commands,
flags and their values, services, constants, targets, names of servers. Nothing is asked
over the network for it; what is in a cluster is asked of kubectl, for a second at most.

bash, with the package bash-completion (then begin a new shell):
  mkdir -p ~/.local/share/bash-completion/completions
  probectl completion bash > ~/.local/share/bash-completion/completions/probectl

zsh, where ~/.zshrc has "fpath=(~/.zfunc $fpath)" before "autoload -U compinit; compinit":
  mkdir -p ~/.zfunc
  probectl completion zsh > ~/.zfunc/_probectl

fish:
  mkdir -p ~/.config/fish/completions
  probectl completion fish > ~/.config/fish/completions/probectl.fish

PowerShell, for this session, or in the file $PROFILE for all:
  probectl completion powershell | Out-String | Invoke-Expression

As a plugin of kubectl, where kubectl itself is completed, a second link is all it takes:
  ln -s "$(command -v probectl)" ~/.local/bin/kubectl_complete-probectl`

func newCompletionCommand(*tool) *cobra.Command {
	plain := false
	command := &cobra.Command{
		Use:   "completion SHELL",
		Short: "Write a completion script for a shell: bash, zsh, fish or powershell",
		Long:  completionHelp,
		Example: `  probectl completion bash > ~/.local/share/bash-completion/completions/probectl
  probectl completion zsh > ~/.zfunc/_probectl
  probectl completion fish | source`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errShell
			}
			return nil
		},
		ValidArgsFunction: arguments(among(shells...)),
		RunE: func(command *cobra.Command, args []string) error {
			root, out := command.Root(), command.OutOrStdout()
			switch args[0] {
			case "bash":
				return writeBashScript(root, out, !plain)
			case "zsh":
				if plain {
					return root.GenZshCompletionNoDesc(out)
				}
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, !plain)
			case "powershell":
				if plain {
					return root.GenPowerShellCompletion(out)
				}
				return root.GenPowerShellCompletionWithDesc(out)
			}
			return &usageError{errShell}
		},
	}
	command.Flags().BoolVar(&plain, "no-descriptions", false, "without a word about each candidate")
	return command
}

// writeBashScript writes cobra's script, and takes out of it that what is offered is quoted for commas and brackets: bash
// does not mind them, nobody types them quoted, and so they would never be the beginning of what is offered.
func writeBashScript(root *cobra.Command, out io.Writer, descriptions bool) error {
	var script bytes.Buffer
	if err := root.GenBashCompletionV2(&script, descriptions); err != nil {
		return err
	}
	_, err := io.WriteString(out, bashQuote.Replace(script.String())+bashQuoteFunction)
	return err
}

var bashQuote = strings.NewReplacer(
	`printf -v comp "%q" "${compline%%$tab*}" &>/dev/null || comp=$(printf "%q" "${compline%%$tab*}")`, `__probectl_quote comp "${compline%%$tab*}"`,
	`COMPREPLY[0]=$(printf "%q" "${COMPREPLY[0]%%$tab*}")`, `local comp; __probectl_quote comp "${COMPREPLY[0]%%$tab*}"; COMPREPLY[0]=$comp`,
	`COMPREPLY[0]=$(printf "%q" "${COMPREPLY[0]}")`, `local comp; __probectl_quote comp "${COMPREPLY[0]}"; COMPREPLY[0]=$comp`,
)

const bashQuoteFunction = `
# Quotes $2 into the variable $1, unless commas and brackets are all that is special in it.
__probectl_quote() {
    local __plain=${2//[],:[]/} __quoted
    printf -v __quoted "%q" "$__plain"
    if [[ $__quoted == "$__plain" ]]; then
        printf -v "$1" "%s" "$2"
    else
        printf -v "$1" "%q" "$2"
    fi
}
`

var (
	shells   = []string{"bash", "zsh", "fish", "powershell"}
	errShell = errors.New("name the shell: bash, zsh, fish or powershell")
)
