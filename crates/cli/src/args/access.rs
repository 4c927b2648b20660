//! Login, tokens, users.

use clap::{Args, Subcommand, ValueEnum};
use wire::native::access::Role;

use super::{OutputArgs, YesArgs, value};

/// Logs in.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  plimsoll login https://plimsoll.example:7440                   asks for the token
  echo \"$TOKEN\" | plimsoll login --token-stdin https://plimsoll.example:7440 --ca-sha256 HASH

The token is kept in ~/.plimsoll/, readable only by you. The installation's CA is pinned: its hash is
shown for you to compare, or compared with --ca-sha256.")]
pub struct LoginArgs {
    /// https://host:port
    pub url: String,
    /// Read the token from standard input
    #[arg(long)]
    pub token_stdin: bool,
    /// SHA-256 of the installation's CA, 64 hexadecimal digits
    #[arg(long, value_name = "HASH")]
    pub ca_sha256: Option<String>,
}

/// What can be done with access tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token; it is shown once
    #[command(
        after_help = "Examples:\n  plimsoll token create --user ci --ttl 90d --description \"build server\""
    )]
    Create {
        /// User it stands for
        #[arg(long)]
        user: String,
        /// How long it works; without: until it is removed
        #[arg(long, value_name = "SPAN", value_parser = value::span)]
        ttl: Option<std::time::Duration>,
        /// What it is for
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// How to print.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List tokens
    Ls {
        /// How to print.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove tokens; they stop working at once
    Rm {
        /// Tokens, by id
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
        /// Confirmation.
        #[command(flatten)]
        yes: YesArgs,
    },
}

/// What can be done with users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Make a user
    #[command(after_help = "\
Examples:
  plimsoll user create alice --role developer@team-a
  plimsoll user create root --role admin")]
    Create {
        /// Name
        name: String,
        /// ROLE@POOL, or ROLE for the whole installation; can be repeated
        #[arg(long = "role", value_name = "ROLE[@POOL]", value_parser = binding)]
        roles: Vec<Binding>,
        /// How to print.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List users
    Ls {
        /// How to print.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Replace all roles of a user
    #[command(after_help = "Examples:\n  plimsoll user bind alice developer@team-a viewer@team-b")]
    Bind {
        /// User, by name or id
        user: String,
        /// ROLE@POOL, or ROLE for the whole installation; none: the user may do nothing
        #[arg(value_name = "ROLE[@POOL]", value_parser = binding)]
        roles: Vec<Binding>,
    },
    /// Remove users with their tokens
    Rm {
        /// Users, by name or id
        #[arg(required = true, value_name = "USER")]
        users: Vec<String>,
        /// Confirmation.
        #[command(flatten)]
        yes: YesArgs,
    },
}

/// A role and where it applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The role.
    pub role: Role,
    /// The pool; `None`: the whole installation.
    pub pool: Option<String>,
}

/// Roles as they are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Admin,
    PoolAdmin,
    Developer,
    Viewer,
}

fn binding(text: &str) -> Result<Binding, String> {
    let (role, pool) = match text.split_once('@') {
        Some((role, pool)) => (role, Some(pool.to_owned())),
        None => (text, None),
    };
    let role = match RoleName::from_str(role, true) {
        Ok(RoleName::Admin) => Role::Admin,
        Ok(RoleName::PoolAdmin) => Role::PoolAdmin,
        Ok(RoleName::Developer) => Role::Developer,
        Ok(RoleName::Viewer) => Role::Viewer,
        Err(_) => {
            return Err(format!(
                "\"{role}\" is not a role: write admin, pool-admin, developer or viewer, then @POOL"
            ));
        }
    };
    if pool.as_deref() == Some("") {
        return Err(format!("\"{text}\" names no pool after '@'"));
    }
    Ok(Binding { role, pool })
}
