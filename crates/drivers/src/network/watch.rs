//! Puts the rules back as soon as someone takes them away (`nft flush ruleset`, a firewall's reload), instead of at the
//! agent's next look.

use std::io;
use std::sync::Weak;

use super::driver::Shared;
use super::elements;
use super::netlink::Socket;

/// Starts the watch; it ends some seconds after the driver. It lives in the caller's network namespace.
pub(super) fn start(shared: Weak<Shared>, table: String) -> io::Result<()> {
    let socket = Socket::netfilter(elements::CHANGES)?;
    std::thread::Builder::new()
        .name("rules-watch".to_owned())
        .spawn(move || work(&socket, &shared, &table))?;
    Ok(())
}

fn work(socket: &Socket, shared: &Weak<Shared>, table: &str) {
    let mut lost = false;
    while shared.strong_count() > 0 {
        let look = match socket.receive() {
            Ok(messages) => {
                lost |= messages
                    .iter()
                    .any(|message| elements::tells_loss(message, table));
                lost && messages.iter().any(elements::ends_change)
            }
            // Too many at once: some were lost.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => true,
            // Silence for a while.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                tracing::warn!(%error, "rules are no longer watched");
                return;
            }
        };
        if look {
            lost = false;
            if let Some(shared) = shared.upgrade()
                && let Err(error) = shared.restore()
            {
                tracing::warn!(%error, "rules were taken away and cannot be put back");
            }
        }
    }
}
