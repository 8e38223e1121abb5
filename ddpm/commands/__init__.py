"""One room a group of subcommands: each has `add(commands)`, and imports what it needs when it needs it."""
