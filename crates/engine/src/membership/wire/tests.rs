//! The bytes are pinned; every bound holds; bytes that nobody wrote do no harm.

use foca::Codec as _;
use proptest::prelude::*;

use super::*;
use crate::limits::{
    LABEL_KEY_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX, VERSION_BYTES_MAX, ZONE_BYTES_MAX,
};

fn sample() -> Member {
    Member {
        peer: PeerId([0xab; 32]),
        generation: 0x0102_0304_0506,
        addresses: ["10.0.0.7:5001".parse().unwrap(), "[fd00::7]:5001".parse().unwrap()].into(),
        data_port: 5002,
        zone: "zone-a".into(),
        labels: [("pool".into(), "gpu".into())].into(),
        version: "1.2.3".into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn header(message: Message<Identity>) -> Header<Identity> {
    let dst = Identity::bare(PeerId([0xcd; 32]), 7);
    Header { src: Identity::new(Arc::new(sample())), src_incarnation: 3, dst, message }
}

const SAMPLE_HEX: &str = "abababababababababababababababababababababababababababababababab00000102030405060037\
    02000a000007fb8913\
    01fd000000000000000000000000000007fb8913\
    fb8a13\
    067a6f6e652d61\
    0104706f6f6c03677075\
    05312e322e33";

const RECEIVER_HEX: &str = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd0000000000000007";

#[test]
fn members_and_updates_have_these_bytes() {
    let mut bytes = Vec::new();
    put_member(&sample(), &mut bytes).unwrap();
    assert_eq!(hex(&bytes), SAMPLE_HEX);
    let update = foca::Member::new(Identity::new(Arc::new(sample())), 5, State::Suspect);
    assert_eq!(hex(&encode_update(&update).unwrap()), format!("000501{SAMPLE_HEX}"));
}

#[test]
fn headers_have_these_bytes() {
    let third = Identity::bare(PeerId([0xee; 32]), 9);
    let named = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee0000000000000009";
    let probe_number = 0x42;
    let table = [
        (Message::Ping(probe_number), "0142", ""),
        (Message::Ack(probe_number), "0242", ""),
        (Message::PingReq { target: third.clone(), probe_number }, "0342", named),
        (Message::IndirectPing { origin: third.clone(), probe_number }, "0442", named),
        (Message::IndirectAck { target: third.clone(), probe_number }, "0542", named),
        (Message::ForwardedAck { origin: third, probe_number }, "0642", named),
        (Message::Announce, "0700", ""),
        (Message::Feed, "0800", ""),
        (Message::Gossip, "0900", ""),
        (Message::TurnUndead, "0a00", ""),
    ];
    for (message, kind, third) in table {
        let bytes = encode_header(&header(message.clone())).unwrap();
        assert_eq!(hex(&bytes), format!("{kind}0003{SAMPLE_HEX}{RECEIVER_HEX}{third}"));
        let mut rest = &bytes[..];
        let decoded = decode_header(&mut rest).unwrap();
        assert!(rest.is_empty());
        assert_eq!(decoded, header(message));
        assert_eq!(**decoded.src.member(), sample());
    }
}

#[test]
fn packets_have_these_bytes() {
    let receiver = Identity::bare(PeerId([0xcd; 32]), 7);
    let news = foca::Member::alive(Identity::new(Arc::new(sample())));
    let bytes = packets(KIND_GOSSIP, &receiver, &[news]).remove(0);
    let expected = format!(
        "01{}{}{SAMPLE_HEX}{RECEIVER_HEX}{}{}{SAMPLE_HEX}",
        "1122334455667788", "09000000", "0001", "000000"
    );
    assert_eq!(hex(&bytes), expected);
    let packet = decode(&bytes).unwrap();
    assert_eq!((packet.view, packet.updates.len()), (0x1122_3344_5566_7788, 1));
    assert_eq!(packet.updates[0].member().unwrap(), sample());
}

fn packets(kind: u8, receiver: &Identity, news: &[foca::Member<Identity>]) -> Vec<Vec<u8>> {
    let enveloped = |data: Vec<u8>| {
        let mut bytes = Vec::new();
        put_envelope(0x1122_3344_5566_7788, &mut bytes);
        bytes.extend_from_slice(&data);
        bytes
    };
    compose(kind, &sample(), receiver, news).into_iter().map(enveloped).collect()
}

#[test]
fn a_long_list_becomes_several_packets() {
    let news: Vec<_> = (0..1000u64)
        .map(|n| foca::Member::alive(Identity::new(Arc::new(Member { generation: n, ..sample() }))))
        .collect();
    let packets = packets(KIND_FEED, &Identity::bare(PeerId([1; 32]), 1), &news);
    assert!(packets.len() > 1 && packets.iter().all(|packet| packet.len() <= MEMBERSHIP_PACKET_BYTES_MAX));
    let told: Vec<_> = packets
        .iter()
        .flat_map(|packet| decode(packet).unwrap().updates.iter().map(|u| u.generation).collect::<Vec<_>>())
        .collect();
    assert_eq!(told, (0..1000).collect::<Vec<_>>());
}

#[test]
fn details_beyond_their_bounds_are_neither_sent_nor_taken() {
    let text = |length: usize| -> Box<str> { "x".repeat(length).into() };
    let label = |key, value| -> Box<[(Box<str>, Box<str>)]> { [(text(key), text(value))].into() };
    let table = [
        (Member { addresses: vec![sample().addresses[0]; 9].into(), ..sample() }, MemberFault::Addresses),
        (Member { zone: text(ZONE_BYTES_MAX + 1), ..sample() }, MemberFault::Zone),
        (Member { labels: vec![(text(1), text(1)); LABELS_MAX + 1].into(), ..sample() }, MemberFault::Labels),
        (Member { labels: label(LABEL_KEY_BYTES_MAX + 1, 1), ..sample() }, MemberFault::Labels),
        (Member { labels: label(1, LABEL_VALUE_BYTES_MAX + 1), ..sample() }, MemberFault::Labels),
        (Member { version: text(VERSION_BYTES_MAX + 1), ..sample() }, MemberFault::Version),
        (Member { labels: vec![(text(60), text(60)); LABELS_MAX].into(), ..sample() }, MemberFault::Total),
    ];
    for (member, fault) in table {
        assert_eq!(details::check(&member), Err(fault));
        let Member { addresses, data_port, zone, labels, version, .. } = member;
        let fields = (addresses, data_port, zone, labels, version);
        let details = bincode::encode_to_vec(fields, bincode::config::standard()).unwrap();
        let mut bytes = vec![1; 40];
        bytes.extend_from_slice(&u16::try_from(details.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&details);
        let taken = Codec.decode_member(&[&[0, 0, 0][..], &bytes].concat()[..]);
        assert_eq!(taken.unwrap_err(), PacketFault::Member(fault));
    }
}

#[test]
fn other_versions_and_loose_ends_are_refused() {
    let good = packets(KIND_GOSSIP, &Identity::bare(PeerId([1; 32]), 1), &[]).remove(0);
    assert!(decode(&good).is_ok());
    let refused = |bytes: &[u8]| decode(bytes).err().expect("a fault");
    assert_eq!(refused(&[&[2], &good[1..]].concat()), PacketFault::Version(2));
    assert_eq!(refused(&[&good[..], &[0]].concat()), PacketFault::Malformed);
    assert_eq!(refused(&vec![1; MEMBERSHIP_PACKET_BYTES_MAX + 1]), PacketFault::TooLong(32_769));
    // Without its count it says the same: there is no news.
    let bare = good.len() - 2;
    assert!(decode(&good[..bare]).is_ok());
    for length in (0..good.len()).filter(|length| *length != bare) {
        assert_eq!(refused(&good[..length]), PacketFault::Malformed, "{length} bytes");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), at: prop::sample::Index) {
        let _ = decode(&bytes);
        let news = foca::Member::alive(Identity::new(Arc::new(sample())));
        let mut damaged = packets(KIND_GOSSIP, &Identity::bare(PeerId([1; 32]), 1), &[news.clone(), news]).remove(0);
        let at = at.index(damaged.len());
        for (place, byte) in damaged[at..].iter_mut().zip(&bytes).take(4) {
            *place = *byte;
        }
        if let Ok(packet) = decode(&damaged) {
            for update in packet.updates {
                let _ = update.member();
            }
        }
    }
}
