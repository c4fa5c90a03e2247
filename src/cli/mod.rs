//! What was typed becomes typed requests; errors become one line. (the only place that prints)

mod args;
mod args_attach;
mod args_engines;
mod args_inspect;
mod args_run;
mod args_shared;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod engines;
mod faces;
mod hint;
mod inspect;
mod invocation;
mod quadlet;
pub mod report;
mod usage;
pub mod wg;

use std::ffi::OsString;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use self::args::{CommandArgs, CommandLine, CompletionsArgs, ManArgs};
use self::invocation::Face;
use self::report::Exits;
use crate::compat::wireguard_go;
use crate::driver::failure::FailureClass;
use crate::mode;
use crate::mode::device;
use crate::sys::stack::lengthen_main_stack;

/// Runs the program; returns what the caller's shell sees.
#[must_use]
pub fn main() -> ExitCode {
    report::install_panic_hook();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Err(error) = lengthen_main_stack() {
        let message = format!("cannot start: no address space is left for the stack: {error}");
        report::print_lines(&message, Some("`ulimit -v` bounds it; a tunnel wants some 20 MB"));
        return exits(&arguments).code(FailureClass::General).into();
    }
    match invocation::face(arguments) {
        Face::Native(arguments) => native(&arguments).into(),
        Face::NamespaceChild => mode::child::main(),
        Face::RunChild(arguments) => mode::run_child::main(&arguments),
        Face::Broker => crate::driver::broker::main(),
        Face::Forwarder => crate::driver::port_forward::main(),
        Face::Remover(name) => crate::driver::pidfile::main(&name),
        Face::DoctorProbe(name) => mode::doctor::probe::main(&name),
        #[cfg(feature = "demo")]
        Face::DemoPart(arguments) => demo::part(&arguments).into(),
        Face::WireguardGo(arguments) => faces::wireguard_go(&arguments).into(),
        Face::Wireguard4netns(arguments) => faces::wireguard4netns(&arguments).into(),
        Face::Pasta(arguments) => faces::pasta(&arguments).into(),
        Face::Slirp4netns(arguments) => faces::slirp4netns(&arguments).into(),
    }
}

fn exits(arguments: &[OsString]) -> Exits {
    match invocation::subcommand(arguments) {
        Some("run" | "exec") => Exits::AsCommandRunner,
        Some(_) | None => Exits::ByBlame,
    }
}

fn native(arguments: &[OsString]) -> u8 {
    let (subcommand, exits) = (invocation::subcommand(arguments), exits(arguments));
    match CommandLine::try_parse_from(arguments) {
        // The hook has printed the line.
        Ok(line) => catch_unwind(AssertUnwindSafe(|| dispatch(line.command, exits)))
            .unwrap_or_else(|_printed| exits.bug()),
        // Nothing was asked: the help is the answer, but not a success.
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            report::print_raw(&error.render().to_string());
            FailureClass::Usage.exit_code()
        }
        Err(error) if !error.use_stderr() => print_out(error.render().to_string().as_bytes()),
        Err(error) => {
            let complaint = usage::complaint(&error, subcommand);
            report::print_lines(&complaint.message, Some(&complaint.hint));
            exits.code(FailureClass::Usage)
        }
    }
}

/// Every subcommand, and who does it.
fn dispatch(command: CommandArgs, exits: Exits) -> u8 {
    match command {
        CommandArgs::Attach(args) => match args.into_request() {
            Ok(request) => mode::attach::run(request).unwrap_or_else(|error| exits.fail(&error)),
            Err(error) => exits.fail(&error),
        },
        CommandArgs::Run(args) => match args.into_request() {
            Ok(request) => mode::run::run(request).unwrap_or_else(|error| command_failed(&error)),
            Err(error) => exits.fail(&error),
        },
        CommandArgs::Exec(args) => command_failed(&mode::exec::run(args.into_request())),
        #[cfg(feature = "demo")]
        CommandArgs::Demo(args) => demo::demo(&args.into_request()),
        #[cfg(not(feature = "demo"))]
        CommandArgs::Demo(_) => {
            report::print_lines(
                "cannot show the demonstration: this wg4netns was built without it",
                Some("build it with the feature `demo`, which is on unless `--no-default-features` is given"),
            );
            FailureClass::General.exit_code()
        }
        CommandArgs::Device(args) => {
            match wireguard_go::honour_environment(args.into_request(), std::env::var_os) {
                Ok(request) => device::run(request).unwrap_or_else(|error| exits.fail(&error)),
                Err(error) => exits.fail(&error),
            }
        }
        CommandArgs::Ls(args) => inspect::ls(&args).unwrap_or_else(|error| exits.fail(&error)),
        CommandArgs::Status(args) => inspect::status(&args).unwrap_or_else(|error| exits.fail(&error)),
        CommandArgs::Logs(args) => inspect::logs(&args).unwrap_or_else(|error| exits.fail(&error)),
        CommandArgs::Stop(args) => inspect::stop(&args).unwrap_or_else(|error| exits.fail(&error)),
        CommandArgs::Check(args) => check::check(&args).unwrap_or_else(|error| exits.fail(&error)),
        CommandArgs::Wg(args) => args.run().unwrap_or_else(|error| exits.fail(&error)),
        CommandArgs::Doctor(args) => doctor::doctor(&args),
        CommandArgs::OciHook(args) => engines::oci_hook(args),
        CommandArgs::DropIns(args) => engines::drop_ins(args),
        CommandArgs::Cdi(args) => engines::cdi(args),
        CommandArgs::Quadlet(args) => quadlet::quadlet(args),
        CommandArgs::Completions(args) => completions(&args),
        CommandArgs::Man(args) => man(&args),
    }
}

/// A command that did not run: 126 and 127 are its own fault, 125 is ours.
fn command_failed(error: &mode::StartError) -> u8 {
    report::print(error);
    error.command_exit_code()
}

fn completions(args: &CompletionsArgs) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut CommandLine::command(), "wg4netns", &mut script);
    print_out(&script)
}

/// One page to standard output, or all of them into a directory.
fn man(args: &ManArgs) -> u8 {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        return match clap_mangen::Man::new(CommandLine::command()).render(&mut page) {
            Ok(()) => print_out(&page),
            Err(error) => cannot("make the manual page", &error),
        };
    };
    match clap_mangen::generate_to(CommandLine::command(), dir) {
        Ok(()) => 0,
        Err(error) => cannot(&format!("write manual pages into `{}`", dir.display()), &error),
    }
}

fn cannot(what: &str, error: &io::Error) -> u8 {
    report::print_lines(&format!("cannot {what}: {error}"), None);
    FailureClass::General.exit_code()
}

/// Data to standard output; a reader that has gone away (`| head`) is no error.
fn print_out(text: &[u8]) -> u8 {
    match io::stdout().write_all(text).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => cannot("write to standard output", &error),
        Ok(()) | Err(_) => 0,
    }
}
