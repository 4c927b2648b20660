//! Images.

use std::path::PathBuf;

use clap::Subcommand;

use super::{ListArgs, YesArgs};

/// What can be done with images of a pool.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images
    Ls(ListArgs),
    /// Show everything about images, as JSON
    #[command(visible_alias = "inspect")]
    Show {
        /// Images, by name, digest or id
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// JSON or YAML
        #[arg(long, short = 'o', value_enum, default_value_t = super::Format::Json, value_name = "FORMAT")]
        output: super::Format,
    },
    /// Pull an image from a registry
    #[command(after_help = "\
Examples:
  plimsoll image pull --pool team-a registry.example/web:1.2
  echo \"$PASSWORD\" | plimsoll image pull --user robot --password-stdin registry.example/web")]
    Pull {
        /// [registry/]repository[:tag][@sha256:...]
        image: String,
        /// os/architecture, for example linux/arm64
        #[arg(long)]
        platform: Option<String>,
        /// User name for the registry
        #[arg(long, requires = "password_stdin")]
        user: Option<String>,
        /// Read the registry's password from standard input
        #[arg(long, requires = "user")]
        password_stdin: bool,
    },
    /// Load images from a docker or OCI archive
    #[command(after_help = "\
Examples:
  plimsoll image load --pool team-a -i web.tar
  docker save web | plimsoll image load --pool team-a")]
    Load {
        /// Archive to read instead of standard input
        #[arg(long, short = 'i', value_name = "FILE")]
        input: Option<PathBuf>,
    },
    /// Write images into an archive
    #[command(
        after_help = "Examples:\n  plimsoll image save -O web.tar web:1 db:2\n  plimsoll image save web | docker load"
    )]
    Save {
        /// Images, by name, digest or id
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// File to write instead of standard output
        #[arg(long, short = 'O', value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Give an image a further name
    Tag {
        /// Image, by name, digest or id
        image: String,
        /// [registry/]repository[:tag]
        target: String,
    },
    /// Remove names of images, and images without names
    Rm {
        /// Images, by name, digest or id
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Also if stopped workloads use it or it has several names
        #[arg(long, short = 'f')]
        force: bool,
        /// Confirmation.
        #[command(flatten)]
        yes: YesArgs,
    },
}
