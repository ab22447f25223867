//! What comes on the daemon's socket: a head and any bytes after it, within their bounds; what is taken is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plexus::wire::{Frame, HEAD_BYTES, REQUEST_BYTES_MAX};

fuzz_target!(|bytes: &[u8]| {
    let Some((head, body)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return };
    let length = Frame::length(*head);
    assert!(length.as_ref().is_ok_and(|length| *length <= REQUEST_BYTES_MAX) || length.is_err());
    let Ok(frame) = Frame::parse(body) else { return };
    let sent = frame.to_bytes();
    let (head, again) = sent.split_first_chunk::<HEAD_BYTES>().expect("a head");
    assert_eq!(Frame::length(*head).expect("a length that is taken"), again.len());
    assert_eq!(again, body, "one text has one form");
    assert_eq!(Frame::parse(again).expect("a frame"), frame);
});
