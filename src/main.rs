//! Dispatch by the name the binary was called by, then by subcommand, to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    wg4netns::cli::main()
}
