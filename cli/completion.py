"""`vbdguard completion`: what a shell needs to complete commands, options and files."""

from __future__ import annotations

import sys

import click
from click.shell_completion import get_completion_class


@click.command(short_help="Write the completion script of a shell to stdout.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Write a script to stdout that makes SHELL complete commands, options and files of vbdguard.

    \b
    Examples:
      dir=~/.local/share/bash-completion/completions
      vbdguard completion bash > $dir/vbdguard
      vbdguard completion zsh > "${fpath[1]}/_vbdguard"
      vbdguard completion fish > ~/.config/fish/completions/vbdguard.fish
      eval "$(vbdguard completion bash)"               for this shell only
    """
    maker = get_completion_class(shell)
    if maker is None:
        raise click.UsageError(f"no completion for {shell}")
    sys.stdout.write(maker(ctx.find_root().command, {}, "vbdguard", "_VBDGUARD_COMPLETE").source())
