"""The command `ddpm`: one module a subcommand, which parses options and calls the package."""
