//! The form of texts and lists: what is run, names, addresses, ports.

use model::{WorkloadSpec, user};

use super::{Refusal, invalid, is_clean_absolute};

/// Most of any list in a specification: bounds the size of what is stored and sent.
const LIST_MAX: usize = 4096;

/// Longest argument or variable in bytes, its end included (`MAX_ARG_STRLEN` of Linux).
const TEXT_MAX_BYTES: usize = 128 << 10;

/// Most published ports of one workload.
const PORTS_MAX: usize = 1024;

#[expect(
    clippy::too_many_lines,
    reason = "a flat list of independent checks, one after the other"
)]
/// Checks form.
pub(super) fn check(spec: &WorkloadSpec) -> Result<(), Refusal> {
    let task = &spec.task;
    if task.entrypoint.is_empty() && task.args.is_empty() {
        return Err(invalid(
            "command",
            "no command specified, and the image has none",
        ));
    }
    for (field, list) in [
        ("entrypoint", &task.entrypoint),
        ("args", &task.args),
        ("env", &task.env),
        ("groups", &task.groups),
        ("dns.servers", &spec.dns.servers),
        ("dns.search", &spec.dns.search),
        ("dns.options", &spec.dns.options),
    ] {
        if list.len() > LIST_MAX {
            return Err(invalid(
                field,
                format!("has {} entries, at most {LIST_MAX} are allowed", list.len()),
            ));
        }
        if list.iter().any(|item| item.contains('\0')) {
            return Err(invalid(field, "must not contain NUL bytes"));
        }
        if list.iter().any(|item| item.len() >= TEXT_MAX_BYTES) {
            return Err(invalid(
                field,
                format!(
                    "has an entry of {TEXT_MAX_BYTES} bytes or more, which no program can be given"
                ),
            ));
        }
    }
    for (field, list) in [
        ("dns.servers", &spec.dns.servers),
        ("dns.search", &spec.dns.search),
        ("dns.options", &spec.dns.options),
    ] {
        if list.len() > 32
            || list
                .iter()
                .any(|item| item.chars().any(|c| c.is_control() || c == ' '))
        {
            return Err(invalid(
                field,
                "must have at most 32 entries without spaces or control characters",
            ));
        }
    }
    if let Some(bad) = spec
        .dns
        .servers
        .iter()
        .find(|s| s.parse::<std::net::IpAddr>().is_err())
    {
        return Err(invalid(
            "dns.servers",
            format!("\"{}\" is not an IP address", bad.escape_debug()),
        ));
    }
    if !is_hostname(&spec.hostname) || !is_hostname(&spec.domainname) {
        return Err(invalid(
            "hostname",
            "must be at most 63 letters, digits, '-' or '.'",
        ));
    }
    for (name, address) in &spec.extra_hosts {
        let address_ok = address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok();
        if name.is_empty()
            || name.len() > 253
            || !address_ok
            || name.chars().any(|c| c.is_control() || c == ' ')
        {
            return Err(invalid(
                "extra_hosts",
                "each must be a name and an IP address or host-gateway",
            ));
        }
    }
    if spec.extra_hosts.len() > LIST_MAX
        || spec.labels.len() > LIST_MAX
        || spec.ports.len() > PORTS_MAX
    {
        return Err(invalid(
            "labels, ports or extra_hosts",
            "has too many entries",
        ));
    }
    user::check_user(&task.user).map_err(|reason| invalid("user", reason))?;
    for group in &task.groups {
        user::check_group(group).map_err(|reason| invalid("groups", reason))?;
    }
    if !task.working_dir.is_empty() && !is_clean_absolute(&task.working_dir) {
        return Err(invalid("working_dir", "must be an absolute path"));
    }
    if let Some(bad) = task
        .env
        .iter()
        .find(|pair| pair.is_empty() || pair.starts_with('='))
    {
        return Err(invalid(
            "env",
            format!("\"{}\" has no name", bad.escape_debug()),
        ));
    }
    for mapping in &spec.ports {
        if mapping.port == 0
            || (!mapping.host_ip.is_empty() && mapping.host_ip.parse::<std::net::IpAddr>().is_err())
        {
            return Err(invalid(
                "ports",
                "needs a port between 1 and 65535 and an IP address",
            ));
        }
    }
    Ok(())
}

fn is_hostname(text: &str) -> bool {
    text.len() <= 63
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}
