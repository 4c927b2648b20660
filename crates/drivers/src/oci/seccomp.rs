//! System call filters: profiles in Docker's form, lowered to the OCI form for one task.
//!
//! The built-in profile is the data file `seccomp.json`: an allow list, with rules that depend on
//! capabilities, architecture and kernel. Start with [`lower`]. Pure.

use serde::Deserialize;
use serde_json::{Value, json};

/// The built-in profile.
pub const DEFAULT_PROFILE: &str = include_str!("seccomp.json");

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not a profile.
    #[error("seccomp profile cannot be read")]
    Parse(#[source] serde_json::Error),
    /// An action that would hand calls to somebody else.
    #[error("seccomp action {0} is not supported")]
    Action(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// What a profile is lowered for.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// `x86_64` or `aarch64`.
    pub arch: &'a str,
    /// Kernel release as numbers.
    pub kernel: (u32, u32),
    /// Capabilities of the task's bounding set.
    pub capabilities: &'a [String],
}

/// The `linux.seccomp` of an OCI spec.
///
/// # Errors
/// When the text is no profile, or asks for what is not supported.
pub fn lower(profile: &str, target: &Target<'_>) -> Result<Value, ProfileError> {
    let profile: Profile = serde_json::from_str(profile).map_err(ProfileError::Parse)?;
    check(&profile.default_action)?;
    let native = match target.arch {
        "aarch64" => "SCMP_ARCH_AARCH64",
        _ => "SCMP_ARCH_X86_64",
    };
    let mut architectures = profile.architectures;
    for map in profile
        .arch_map
        .into_iter()
        .filter(|map| map.architecture == native)
    {
        architectures.push(map.architecture);
        architectures.extend(map.sub_architectures);
    }
    let mut syscalls = Vec::new();
    for rule in profile.syscalls {
        check(&rule.action)?;
        if !target.includes(&rule.includes) || target.excluded(&rule.excludes) {
            continue;
        }
        let mut names = rule.names;
        names.extend(rule.name);
        let mut lowered = json!({"names": names, "action": rule.action});
        if let Some(errno) = rule.errno_ret {
            lowered["errnoRet"] = json!(errno);
        }
        if let Some(args) = rule.args.filter(|args| !args.is_empty()) {
            lowered["args"] = Value::Array(args);
        }
        syscalls.push(lowered);
    }
    let mut lowered = json!({"defaultAction": profile.default_action, "syscalls": syscalls});
    if let Some(errno) = profile.default_errno_ret {
        lowered["defaultErrnoRet"] = json!(errno);
    }
    if !architectures.is_empty() {
        lowered["architectures"] = json!(architectures);
    }
    Ok(lowered)
}

fn check(action: &str) -> Result<(), ProfileError> {
    // A notify listener would be a socket of the host.
    if action == "SCMP_ACT_NOTIFY" {
        Err(ProfileError::Action(action.to_owned()))
    } else {
        Ok(())
    }
}

impl Target<'_> {
    fn arch_is(&self, name: &str) -> bool {
        match self.arch {
            "aarch64" => matches!(name, "arm64" | "arm"),
            _ => matches!(name, "amd64" | "x86" | "x32"),
        }
    }

    fn kernel_is(&self, minimum: &str) -> bool {
        let mut parts = minimum
            .split('.')
            .map(|part| part.parse::<u32>().unwrap_or(0));
        self.kernel >= (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    fn has(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|own| own == capability)
    }

    fn includes(&self, condition: &Condition) -> bool {
        condition.caps.iter().all(|capability| self.has(capability))
            && (condition.arches.is_empty()
                || condition.arches.iter().any(|arch| self.arch_is(arch)))
            && condition
                .min_kernel
                .as_deref()
                .is_none_or(|minimum| self.kernel_is(minimum))
    }

    fn excluded(&self, condition: &Condition) -> bool {
        condition.caps.iter().any(|capability| self.has(capability))
            || condition.arches.iter().any(|arch| self.arch_is(arch))
            || condition
                .min_kernel
                .as_deref()
                .is_some_and(|minimum| self.kernel_is(minimum))
    }
}
