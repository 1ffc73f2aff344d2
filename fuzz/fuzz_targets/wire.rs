//! Control messages from other members: whatever comes is refused or is a message, and there is one way to write it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_engine::wire::Message;

fuzz_target!(|frame: &[u8]| {
    if let Ok(message) = Message::decode(frame) {
        let again = message.encode();
        assert_eq!(again.len(), message.encoded_len());
        assert_eq!(Message::decode(&again).ok(), Some(message));
    }
});
