//! The driver in real kernel namespaces. Each test lives in a network namespace of its own ("the host") with another
//! one beside it ("outside"); both vanish with the test's threads and processes.

mod world;

use std::net::SocketAddr;

use model::workload::{PortMapping, Protocol};

use world::{HOST, Inside, OUTSIDE, fetch, in_host, serve, workload};

fn port(port: u16, host_port: Option<u16>) -> PortMapping {
    PortMapping {
        port,
        protocol: Protocol::Tcp,
        host_ip: String::new(),
        host_port,
    }
}

#[test]
fn a_workload_reaches_outside_and_a_published_port_is_reached_from_everywhere() {
    in_host(|world| {
        let network = world.open();
        let inside = Inside::new();
        let mut web = workload(1, 1);
        web.spec.ports = vec![port(80, Some(8080)), port(80, None)];
        let attachment = world.attach(&network, &web, &inside).unwrap();
        let again = world.attach(&network, &web, &inside).unwrap();
        assert_eq!(attachment, again, "attaching twice changes nothing");

        // Outwards, masqueraded: outside knows no way to the workload's own address.
        let server = world.outside.run(|| serve("0.0.0.0:7000"));
        let seen = inside.run(|| fetch(SocketAddr::from((OUTSIDE, 7000))).unwrap());
        assert_eq!(seen, HOST.to_string());
        drop(server);

        // Inwards, from everywhere.
        let _server = inside.run(|| serve("0.0.0.0:80"));
        let random = attachment.status.ports[1].host_port.unwrap();
        for host_port in [8080, random] {
            let target = SocketAddr::from((HOST, host_port));
            let seen = world.outside.run(|| fetch(target).unwrap());
            assert_eq!(seen, OUTSIDE.to_string(), "the client's address is kept");
            fetch(target).unwrap();
            fetch(SocketAddr::from(([127, 0, 0, 1], host_port))).unwrap();
            inside.run(|| fetch(target)).unwrap();
            let stranger = Inside::new();
            world.attach(&network, &workload(2, 2), &stranger).unwrap();
            stranger.run(|| fetch(target)).unwrap();
            world.detach(&network, &workload(2, 2));
        }
        world.detach(&network, &web);
        world.detach(&network, &web);
        assert!(fetch(SocketAddr::from(([127, 0, 0, 1], 8080))).is_err());
    });
}
