//! Frames and what answers them, made with scapy 2.8 by the expression above each.

use super::Golden;

/// `Ether(dst='02:00:00:00:00:02', src='02:00:00:00:00:01')/Dot1Q(vlan=5)/IP(src='192.0.2.1', dst='192.0.2.2',
/// id=1)/TCP(sport=1000, dport=80, flags='FA', seq=100, ack=200)/b'payload!'`
pub const TCP_V4: Golden = Golden {
    frame_len: 66,
    hex: "
        02000000000202000000000181000005080045000030000100004006f6c3c0000201c000020203e80050000000640000
        00c850112000491300007061796c6f616421
    ",
};

/// `Ether(dst='02:00:00:00:00:02', src='02:00:00:00:00:01')/IP(src='192.0.2.1', dst='192.0.2.2')/TCP(sport=1000,
/// dport=80, flags='S', seq=0xfffffffe, options=[('NOP', None), ('MSS', 1400)])`
pub const SYN_V4: Golden = Golden {
    frame_len: 62,
    hex: "
        020000000002020000000001080045000030000100004006f6c3c0000201c000020203e80050fffffffe000000007002
        20006a9800000102040578000000
    ",
};

/// `Ether(dst='02:00:00:00:00:02', src='02:00:00:00:00:01')/IPv6(src='fd00::1', dst='fd00::2')/UDP(sport=1000,
/// dport=53)/b'payload'`
pub const UDP_V6: Golden = Golden {
    frame_len: 69,
    hex: "
        02000000000202000000000186dd60000000000f1140fd000000000000000000000000000001fd000000000000000000
        00000000000203e80035000f447f7061796c6f6164
    ",
};

/// `Ether(dst='02:00:00:00:00:01', src='02:00:00:00:00:02')/Dot1Q(vlan=5)/IP(src='192.0.2.254', dst='192.0.2.1',
/// tos=0xc0, id=0, flags='DF')/ICMP(type=3, code=4, nexthopmtu=1400)/Raw(bytes(IP(src='192.0.2.1', dst='192.0.2.2',
/// id=1)/TCP(sport=1000, dport=80, flags='FA', seq=100, ack=200)/b'payload!'))`
pub const NEEDED_V4: Golden = Golden {
    frame_len: 94,
    hex: "
        02000000000102000000000281000005080045c0004c000040004001b4f1c00002fec000020103047baa000005784500
        0030000100004006f6c3c0000201c000020203e8005000000064000000c850112000491300007061796c6f616421
    ",
};

/// `Ether(dst='02:00:00:00:00:01', src='02:00:00:00:00:02')/IP(src='192.0.2.254', dst='192.0.2.1', tos=0xc0, id=0,
/// flags='DF')/ICMP(type=3, code=13)/Raw(bytes(IP(src='192.0.2.1', dst='192.0.2.2')/TCP(sport=1000, dport=80,
/// flags='S', seq=0xfffffffe, options=[('NOP', None), ('MSS', 1400)])))`
pub const PROHIBITED_V4: Golden = Golden {
    frame_len: 90,
    hex: "
        020000000001020000000002080045c0004c000040004001b4f1c00002fec0000201030d811900000000450000300001
        00004006f6c3c0000201c000020203e80050fffffffe00000000700220006a9800000102040578000000
    ",
};

/// `Ether(dst='02:00:00:00:00:01', src='02:00:00:00:00:02')/IP(src='192.0.2.254', dst='192.0.2.1', tos=0xc0, id=0,
/// flags='DF')/ICMP(type=11, code=0)/Raw(bytes(IP(src='192.0.2.1', dst='192.0.2.2')/TCP(sport=1000, dport=80,
/// flags='S', seq=0xfffffffe, options=[('NOP', None), ('MSS', 1400)])))`
pub const EXCEEDED_V4: Golden = Golden {
    frame_len: 90,
    hex: "
        020000000001020000000002080045c0004c000040004001b4f1c00002fec00002010b00792600000000450000300001
        00004006f6c3c0000201c000020203e80050fffffffe00000000700220006a9800000102040578000000
    ",
};

/// `Ether(dst='02:00:00:00:00:01', src='02:00:00:00:00:02')/IPv6(src='fd00::fe', dst='fd00::1',
/// tc=0xc0)/ICMPv6PacketTooBig(mtu=1400)/Raw(bytes(IPv6(src='fd00::1', dst='fd00::2')/UDP(sport=1000,
/// dport=53)/b'payload'))`
pub const TOO_BIG_V6: Golden = Golden {
    frame_len: 117,
    hex: "
        02000000000102000000000286dd6c000000003f3a40fd0000000000000000000000000000fefd000000000000000000
        00000000000102008bde0000057860000000000f1140fd000000000000000000000000000001fd000000000000000000
        00000000000203e80035000f447f7061796c6f6164
    ",
};

/// `Ether(dst='02:00:00:00:00:01', src='02:00:00:00:00:02')/IPv6(src='fd00::fe', dst='fd00::1',
/// tc=0xc0)/ICMPv6DestUnreach(code=1)/Raw(bytes(IPv6(src='fd00::1', dst='fd00::2')/UDP(sport=1000,
/// dport=53)/b'payload'))`
pub const PROHIBITED_V6: Golden = Golden {
    frame_len: 117,
    hex: "
        02000000000102000000000286dd6c000000003f3a40fd0000000000000000000000000000fefd000000000000000000
        000000000001010192550000000060000000000f1140fd000000000000000000000000000001fd000000000000000000
        00000000000203e80035000f447f7061796c6f6164
    ",
};

/// `Ether(dst='02:00:00:00:00:01', src='02:00:00:00:00:02')/IPv6(src='fd00::fe', dst='fd00::1',
/// tc=0xc0)/ICMPv6TimeExceeded()/Raw(bytes(IPv6(src='fd00::1', dst='fd00::2')/UDP(sport=1000,
/// dport=53)/b'payload'))`
pub const EXCEEDED_V6: Golden = Golden {
    frame_len: 117,
    hex: "
        02000000000102000000000286dd6c000000003f3a40fd0000000000000000000000000000fefd000000000000000000
        000000000001030090560000000060000000000f1140fd000000000000000000000000000001fd000000000000000000
        00000000000203e80035000f447f7061796c6f6164
    ",
};

/// `Ether(dst='02:00:00:00:00:01', src='02:00:00:00:00:02')/Dot1Q(vlan=5)/IP(src='192.0.2.2', dst='192.0.2.1',
/// id=0, flags='DF')/TCP(sport=80, dport=1000, flags='R', seq=200, window=0)`
pub const RESET: Golden = Golden {
    frame_len: 58,
    hex: "
        02000000000102000000000281000005080045000028000040004006b6ccc0000202c0000201005003e8000000c80000
        00005004000026dd0000
    ",
};

/// `Ether(dst='02:00:00:00:00:01', src='02:00:00:00:00:02')/IP(src='192.0.2.2', dst='192.0.2.1', id=0,
/// flags='DF')/TCP(sport=80, dport=1000, flags='RA', seq=0, ack=0xffffffff, window=0)`
pub const RESET_SYN: Golden = Golden {
    frame_len: 54,
    hex: "
        020000000001020000000002080045000028000040004006b6ccc0000202c0000201005003e800000000ffffffff5014
        000027950000
    ",
};

/// `Ether(dst='02:00:00:00:00:01', src='02:00:00:00:00:02')/IP(src='192.0.2.2', dst='192.0.2.1', id=0,
/// flags='DF')/TCP(sport=80, dport=1000, flags='SA', seq=0xc00c1e55, ack=0xffffffff, window=29200, options=[('MSS',
/// 1360)])`
pub const SYN_COOKIE: Golden = Golden {
    frame_len: 58,
    hex: "
        02000000000102000000000208004500002c000040004006b6c8c0000202c0000201005003e8c00c1e55ffffffff6012
        7210bfcc000002040550
    ",
};

/// `Ether(dst='33:33:00:00:00:01', src='02:00:00:00:00:02')/IPv6(src='fe80::2', dst='ff02::1',
/// hlim=255)/ICMPv6ND_RA(chlim=64, M=1, O=1, prf=0, routerlifetime=1800)/ICMPv6NDOptSrcLLAddr(lladdr='02:00:00:00:0
/// 0:02')/ICMPv6NDOptMTU(mtu=1450)/ICMPv6NDOptPrefixInfo(prefix='fd00:1::', prefixlen=64, L=1, A=1,
/// validlifetime=7200, preferredlifetime=3600)/ICMPv6NDOptRDNSS(lifetime=600, dns=['fd00::53', 'fd00::54'])`
pub const ROUTER: Golden = Golden {
    frame_len: 158,
    hex: "
        33330000000102000000000286dd6000000000683afffe800000000000000000000000000002ff020000000000000000
        0000000000018600a56340c007080000000000000000010102000000000205010000000005aa030440c000001c200000
        0e1000000000fd0000010000000000000000000000001905000000000258fd000000000000000000000000000053fd00
        0000000000000000000000000054
    ",
};
