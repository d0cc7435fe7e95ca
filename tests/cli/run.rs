//! `image run`: a port that another program has.

use crate::support::Xtask;

#[test]
fn a_port_in_use_is_said_before_the_build() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let said = Xtask::new(&["image", "run", "--variant=debian", "--port", &port]).refused();
    assert!(said.contains(&port) && said.contains("--port"), "{said}");
}
