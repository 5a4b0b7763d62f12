//! The command line as a whole: the commands, and the rule by which options have variables.
//!
//! Rule: an option of a command can also be given as `PLIMSOLL_<COMMAND>_<OPTION>`
//! (`PLIMSOLL_TOPIC_CREATE_PARTITIONS`); a flag wins. The options of the connection are the same for
//! all commands and have no command in their name, but for `bench`: a shell that is set up for a
//! node in use must not put a load on it unasked. Options whose variable stands with them (of
//! `serve`) keep it.

use std::cell::RefCell;
use std::ffi::OsString;

use clap::builder::FalseyValueParser;
use clap::{
    Arg, ArgAction, Command as ClapCommand, CommandFactory, FromArgMatches, Parser, Subcommand,
};

use crate::amqp::AmqpArgs;
use crate::bench::BenchArgs;
use crate::cluster::ClusterArgs;
use crate::completions::CompletionsArgs;
use crate::config::ConfigArgs;
use crate::consume::ConsumeArgs;
use crate::context::ContextArgs;
use crate::demo::DemoArgs;
use crate::exit::{EXIT_CODES, Exit};
use crate::failure::{Failure, note};
use crate::group::GroupArgs;
use crate::kv::KvArgs;
use crate::log::LogArgs;
use crate::produce::ProduceArgs;
use crate::queue::QueueArgs;
use crate::serve::ServeArgs;
use crate::status::StatusArgs;
use crate::topic::TopicArgs;

const FIRST_STEPS: &str = "\
First steps:
  plimsoll serve --data ./data                        in one terminal: a node
  plimsoll topic create orders --partitions 4         in another: no option needed
  seq 1 100000 | plimsoll produce orders
  plimsoll consume orders --count 5
  plimsoll topic describe orders
  plimsoll queue create jobs                          messages that are settled one by one
  plimsoll consume orders --group billing             one of several readers that share a topic
  plimsoll topic create settings --compact            keys and values: plimsoll kv --help";

const DEMO_HELP: &str = "\
Examples:
  plimsoll demo
  plimsoll demo /var/log/syslog --records 1000000";

const REST: &str = "\
Environment:
  PLIMSOLL_CONFIG_DIR   where contexts are kept; default $XDG_CONFIG_HOME/plimsoll, else
                        ~/.config/plimsoll
  PLIMSOLL_CONNECT, PLIMSOLL_CA, PLIMSOLL_CONTEXT, PLIMSOLL_TRANSPORT, PLIMSOLL_SERVER_NAME,
  PLIMSOLL_TIMEOUT      as the options of the connection (plimsoll produce --help)
  PLIMSOLL_<COMMAND>_<OPTION>
                        as an option of a command, such as PLIMSOLL_PRODUCE_ACKS=leader or
                        PLIMSOLL_TOPIC_CREATE_PARTITIONS=12; `bench` takes those of the connection
                        only so: PLIMSOLL_BENCH_CONNECT
  PLIMSOLL_FENCE        the grant of a lock, NAMESPACE/LOCK/TOKEN, under which produce, consume --group, queue
                        receive and kv write
  PLIMSOLL_AMQP_PASSWORD
                        the password for `plimsoll amqp user create` and `passwd`
  PLIMSOLL_<SETTING>    a node's settings (plimsoll config reference)
  PLIMSOLL_LOG          what to log on standard error, such as debug or plimsoll_client=trace
  NO_COLOR              no colours when it is not empty";

/// A message broker whose acknowledgement means: on stable storage
///
/// One binary: a node (serve), its client (topic, produce, consume), and the tools around it.
#[derive(Debug, Parser)]
#[command(
    name = "plimsoll",
    version,
    after_help = FIRST_STEPS,
    after_long_help = format!("{FIRST_STEPS}\n\n{REST}\n\n{EXIT_CODES}"),
    max_term_width = 100,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(ServeArgs),
    Topic(TopicArgs),
    Queue(QueueArgs),
    Group(GroupArgs),
    Kv(KvArgs),
    Produce(Box<ProduceArgs>),
    Consume(Box<ConsumeArgs>),
    Status(StatusArgs),
    Cluster(ClusterArgs),
    Amqp(AmqpArgs),
    Context(ContextArgs),
    Log(LogArgs),
    #[command(after_long_help = DEMO_HELP)]
    Demo(DemoArgs),
    Bench(Box<BenchArgs>),
    Config(ConfigArgs),
    Completions(CompletionsArgs),
}

impl Cli {
    /// Reads the command line of this process; ends it with help, version or a usage error.
    pub(crate) fn read() -> Self {
        let used = RefCell::new(Vec::new());
        let variable = |name: &str| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
            used.borrow_mut().push(format!("{name}={}", value.display()));
            Some(value)
        };
        let matches = with_variables(Self::command(), &variable).try_get_matches();
        matches.and_then(|matches| Self::from_arg_matches(&matches)).unwrap_or_else(|error| {
            let used = used.borrow();
            if error.use_stderr() && !used.is_empty() {
                note(&format!("note: options are also taken from {}", used.join(" ")));
            }
            error.exit()
        })
    }
}

impl Command {
    /// What is logged when `PLIMSOLL_LOG` says nothing; `None` where the command sees to it.
    pub(crate) fn log_default(&self) -> Option<&'static str> {
        match self {
            Self::Serve(_) => None,
            // What the transports have to say of a failed connection is told as a failure; an
            // embedded node's Raft warns of what is ordinary when a group wakes. Of a reader's
            // node that has gone `consume` tells itself. The AMQP client of `bench` calls it a failure when
            // the server ends the socket with its answer to a close.
            _ => Some(
                "warn,plimsoll_client::consumer=error,quinn=off,quinn_proto=off,rustls=off,\
                 openraft=error,lapin=off",
            ),
        }
    }

    /// Does what was asked.
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        match self {
            Self::Serve(args) => args.run(),
            Self::Topic(args) => block_on(args.run()),
            Self::Queue(args) => block_on(args.run()),
            Self::Group(args) => block_on(args.run()),
            Self::Kv(args) => block_on(args.run()),
            Self::Produce(args) => block_on(args.run()),
            Self::Consume(args) => block_on(args.run()),
            Self::Status(args) => block_on(args.run()),
            Self::Cluster(args) => block_on(args.run()),
            Self::Amqp(args) => block_on(args.run()),
            Self::Context(args) => args.run(),
            Self::Log(args) => args.run(),
            Self::Demo(args) => block_on(args.run()),
            Self::Bench(args) => args.run(),
            Self::Config(args) => args.run(),
            Self::Completions(args) => args.run(),
        }
    }
}

fn block_on(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start threads: {error}")))?;
    let outcome = runtime.block_on(work);
    // Connections say goodbye in the background; nobody waits for the other side.
    runtime.shutdown_timeout(std::time::Duration::from_millis(50));
    outcome
}

/// Lets each option of the ruled commands be given by its variable, where that is set.
fn with_variables(
    command: ClapCommand,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> ClapCommand {
    command.mut_subcommands(|command| {
        let prefix = format!("PLIMSOLL_{}", shout(command.get_name()));
        with_prefix(command, &prefix, variable)
    })
}

fn with_prefix(
    command: ClapCommand,
    prefix: &str,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> ClapCommand {
    command
        .mut_args(|arg| match variable_of(&arg, prefix) {
            Some(name) if variable(&name).is_some() => {
                let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
                let arg = arg.env(name).hide_env(true);
                if is_switch { arg.value_parser(FalseyValueParser::new()) } else { arg }
            }
            _ => arg,
        })
        .mut_subcommands(|command| {
            let prefix = format!("{prefix}_{}", shout(command.get_name()));
            with_prefix(command, &prefix, variable)
        })
}

/// The variable of an option; none for those of the connection, and none that could destroy
/// something without being seen.
fn variable_of(arg: &Arg, prefix: &str) -> Option<String> {
    let long = arg.get_long()?;
    let connection = arg.get_help_heading() == Some(crate::connection::HEADING);
    let excluded = (connection && prefix != "PLIMSOLL_BENCH")
        || arg.get_env().is_some()
        || matches!(long, "help" | "version" | "yes");
    (!excluded).then(|| format!("{prefix}_{}", shout(long)))
}

fn shout(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each command with its path, the outermost first.
    fn all_commands() -> Vec<(String, ClapCommand)> {
        let mut found = Vec::new();
        let mut open = vec![(String::new(), Cli::command())];
        while let Some((path, command)) = open.pop() {
            for inner in command.get_subcommands() {
                open.push((format!("{path} {}", inner.get_name()), inner.clone()));
            }
            found.push((path, command));
        }
        found
    }

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_is_explained() {
        for (path, command) in all_commands() {
            assert!(command.get_about().is_some(), "`plimsoll{path}` has no description");
            for arg in command.get_arguments() {
                let id = arg.get_id();
                assert!(arg.get_help().is_some(), "`plimsoll{path}`: {id} is not explained");
            }
        }
    }

    #[test]
    fn every_example_of_every_command_is_accepted() {
        let mut seen = 0;
        for (path, mut command) in all_commands() {
            let help = command.render_long_help().to_string();
            let mut own = 0;
            for example in examples(&help) {
                let words = words(&example);
                if let Err(error) = Cli::try_parse_from(&words) {
                    assert!(!error.use_stderr(), "`plimsoll{path}`: {example}: {error}");
                }
                own += 1;
            }
            // A command without options may leave it to the one above it.
            let above = path.rsplit_once(' ').map_or("", |(above, _)| above);
            let shown_above = help_above(above).contains(&format!("plimsoll{path}"));
            assert!(own > 0 || shown_above, "`plimsoll{path}` has no example");
            seen += own;
        }
        assert!(seen > 30, "only {seen} examples were found");
    }

    fn help_above(path: &str) -> String {
        let found = all_commands().into_iter().find(|(known, _)| known == path);
        found.map(|(_, mut command)| command.render_long_help().to_string()).unwrap_or_default()
    }

    /// The commands of this binary in the examples of a help page.
    fn examples(help: &str) -> Vec<String> {
        let Some((_, after)) = help.split_once("Examples:").or(help.split_once("First steps:"))
        else {
            return Vec::new();
        };
        let joined = after.replace("\\\n      ", "");
        let mut found = Vec::new();
        for line in joined.lines().take_while(|line| line.is_empty() || line.starts_with(' ')) {
            for part in line.split(['|', ';', '<', '>', '(', ')']) {
                // A remark stands far to the right, or behind a number sign.
                let part = part.split(" # ").next().unwrap_or_default().trim();
                let part = part.split("    ").next().unwrap_or_default();
                let part = part.strip_prefix("until ").unwrap_or(part);
                if part.starts_with("plimsoll ") {
                    found.push(part.to_owned());
                }
            }
        }
        found
    }

    /// Splits at blanks; the examples of this binary quote nothing that has any.
    fn words(example: &str) -> Vec<String> {
        example.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect()
    }

    #[test]
    fn options_have_variables_by_the_rule() {
        let given = |name: &str| match name {
            "PLIMSOLL_PRODUCE_ACKS" => Some("leader".into()),
            "PLIMSOLL_PRODUCE_KEEP_GOING" => Some("1".into()),
            "PLIMSOLL_PRODUCE_JSON" => Some("no".into()),
            _ => None,
        };
        // clap itself reads the environment, so only the names are looked at here.
        let command = with_variables(Cli::command(), &given);
        let produce = command.find_subcommand("produce").unwrap();
        let env = |name: &str| {
            let arg = produce.get_arguments().find(|arg| arg.get_long() == Some(name)).unwrap();
            arg.get_env().map(|name| name.to_string_lossy().into_owned())
        };
        assert_eq!(env("acks").as_deref(), Some("PLIMSOLL_PRODUCE_ACKS"));
        assert_eq!(env("keep-going").as_deref(), Some("PLIMSOLL_PRODUCE_KEEP_GOING"));
        assert_eq!(env("rate"), None);
        assert_eq!(env("connect"), None);
    }

    #[test]
    fn every_option_of_every_command_has_a_variable() {
        let set = with_variables(Cli::command(), &|_| Some("1".into()));
        let mut open = vec![(String::new(), set)];
        while let Some((path, command)) = open.pop() {
            for inner in command.get_subcommands() {
                open.push((format!("{path} {}", inner.get_name()), inner.clone()));
            }
            for arg in command.get_arguments() {
                // Those of the connection are read where they are merged with the context.
                let connection = arg.get_help_heading() == Some(crate::connection::HEADING);
                let own =
                    arg.get_long().filter(|long| !matches!(*long, "help" | "version" | "yes"));
                if let Some(long) = own.filter(|_| !connection || path == " bench") {
                    assert!(arg.get_env().is_some(), "plimsoll{path} --{long} has no variable");
                }
            }
        }
    }

    #[test]
    fn deleting_cannot_be_confirmed_by_a_variable() {
        let command = with_variables(Cli::command(), &|_| Some("1".into()));
        let delete = command.find_subcommand("topic").unwrap().find_subcommand("delete").unwrap();
        let yes = delete.get_arguments().find(|arg| arg.get_long() == Some("yes")).unwrap();
        assert_eq!(yes.get_env(), None);
        let exists =
            delete.get_arguments().find(|arg| arg.get_long() == Some("if-exists")).unwrap();
        assert_eq!(exists.get_env().unwrap(), "PLIMSOLL_TOPIC_DELETE_IF_EXISTS");
    }

    #[test]
    fn slips_are_usage_errors() {
        for line in [
            "plimsoll produce",
            "plimsoll produce a/b",
            "plimsoll produce __internal",
            "plimsoll produce orders --acks all",
            "plimsoll produce orders --partitioner weighted:x",
            "plimsoll produce orders --rate 0",
            "plimsoll produce orders --header name",
            "plimsoll produce orders --batch-bytes 1XB",
            "plimsoll consume orders --from yesterday",
            "plimsoll consume orders --format xml",
            "plimsoll consume orders --show colour",
            "plimsoll consume orders --count -1",
            "plimsoll topic create orders --partitions 0",
            "plimsoll topic create .. ",
            "plimsoll topic alter orders",
            "plimsoll topic delete",
            "plimsoll cluster",
            "plimsoll cluster drain",
            "plimsoll cluster drain three",
            "plimsoll cluster transfer-leader orders",
            "plimsoll cluster transfer-leader orders 0 --to b",
            "plimsoll cluster status --interval 1",
            "plimsoll amqp user create",
            "plimsoll amqp user create ann --password s3cret",
            "plimsoll amqp permission set / ann --configure .*",
            "plimsoll topic list --transport udp",
            "plimsoll topic list --connect a:1 --context b",
            "plimsoll topic list --ca sha256:12",
            "plimsoll topic list --timeout 5",
            "plimsoll completions tcsh",
            "plimsoll no-such-command",
        ] {
            let error = Cli::try_parse_from(line.split_whitespace()).expect_err(line);
            assert_eq!(error.exit_code(), Exit::Usage as i32, "{line}");
        }
    }

    #[test]
    fn connection_options_stand_before_or_behind_the_command_of_topic() {
        for line in [
            "plimsoll topic --connect a:1 list",
            "plimsoll topic list --connect a:1 --ca sha256:\
             8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4",
            "plimsoll consume orders --from -1h30m --follow -n 5",
            "plimsoll consume orders --from=-1h",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
                panic!("{line}: {error}");
            }
        }
    }
}
