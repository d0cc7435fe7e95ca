//! Networks that engines take.

use crate::engine::network::Range;

const HEADER: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";

fn free(number: u8, routes: &str, resolv: &str) -> Option<String> {
    Range::free(number, &format!("{HEADER}{routes}"), resolv).map(|range| range.to_string())
}

#[test]
#[cfg(target_endian = "little")]
fn a_range_avoids_routes_and_name_servers() {
    let default = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    let benchmark = "tun0\t000012C6\t00000000\t0001\t0\t0\t0\t0000FEFF\t0\t0\t0\n";
    assert_eq!(free(0, default, ""), Some("198.19.0.0/20".into()));
    assert_eq!(free(2, default, ""), Some("198.19.32.0/20".into()));
    assert_eq!(free(1, benchmark, ""), Some("172.30.16.0/20".into()));
    assert_eq!(free(1, "", "nameserver 198.19.16.53\n"), Some("172.30.16.0/20".into()));
    assert_eq!(free(2, "", "nameserver 198.19.16.53\n"), Some("198.19.32.0/20".into()));
}
