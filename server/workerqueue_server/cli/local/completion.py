"""``workerqueue completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script.

    bash: `workerqueue completion bash > ~/.local/share/bash-completion/completions/workerqueue`
    zsh: `workerqueue completion zsh > ~/.zfunc/_workerqueue`, with ~/.zfunc in fpath;
    fish: `workerqueue completion fish > ~/.config/fish/completions/workerqueue.fish`
    """
    made = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    assert made is not None
    click.echo(made(root, {}, "workerqueue", "_WORKERQUEUE_COMPLETE").source())
