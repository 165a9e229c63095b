package main

import (
	"errors"

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
				return root.GenBashCompletionV2(out, !plain)
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

var (
	shells   = []string{"bash", "zsh", "fish", "powershell"}
	errShell = errors.New("name the shell: bash, zsh, fish or powershell")
)
