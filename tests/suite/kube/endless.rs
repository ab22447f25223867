//! Answers without an end, byte by byte, as no library would write them. It does not know what was asked.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// HTTP/2's preface of a client (RFC 9113, 3.4) and the header of each frame (4.1), in bytes.
const PREFACE_BYTES: usize = 24;
const FRAME_BYTES: usize = 9;
/// Types of frames.
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// The first request's stream.
const STREAM: u32 = 1;
/// How many pieces are written at once.
const BATCH: usize = 500;

/// What never ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endless {
    /// `100 Continue`, one after the other.
    Continue,
    /// The header fields of one answer.
    Fields,
    /// The body of one answer, that claims to be an object.
    Body,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field that is not put into the table (RFC 7541, 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

impl Endless {
    /// What is written first, and what is written then for ever.
    fn pieces(self, is_http_2: bool) -> (Vec<u8>, Vec<u8>) {
        let value = "x".repeat(100);
        let (first, then) = match (self, is_http_2) {
            (Self::Continue, false) => ("", "HTTP/1.1 100 Continue\r\n\r\n".to_owned()),
            (Self::Fields, false) => ("HTTP/1.1 200 OK\r\n", format!("x-more: {value}\r\n")),
            (Self::Body, false) => ("HTTP/1.1 200 OK\r\n\r\n{\"kind\": \"", value),
            (Self::Continue, true) => {
                return (Vec::new(), frame(HEADERS, END_HEADERS, STREAM, &field(":status", "100")));
            }
            (Self::Fields, true) => {
                let first = frame(HEADERS, 0, STREAM, &field(":status", "200"));
                return (first, frame(CONTINUATION, 0, STREAM, &field("x-more", &value)));
            }
            // Its window ends it.
            (Self::Body, true) => {
                return (
                    frame(HEADERS, END_HEADERS, STREAM, &field(":status", "200")),
                    frame(0, 0, STREAM, value.as_bytes()),
                );
            }
        };
        (first.as_bytes().to_vec(), then.into_bytes())
    }

    /// Waits for a request and answers it until the client has enough.
    pub(super) async fn answer(self, mut stream: impl AsyncRead + AsyncWrite + Unpin, is_http_2: bool) {
        if is_http_2 {
            if stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.is_err() || !await_headers(&mut stream).await {
                return;
            }
        } else if stream.read(&mut [0; 1024]).await.is_err() {
            return;
        }
        let (first, then) = self.pieces(is_http_2);
        let batch = then.repeat(BATCH);
        let mut written = stream.write_all(&first).await;
        while written.is_ok() {
            written = stream.write_all(&batch).await;
        }
    }
}

/// A frame of a stream that the client has not opened would end the connection.
async fn await_headers(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    if stream.read_exact(&mut [0; PREFACE_BYTES]).await.is_err() {
        return false;
    }
    loop {
        let mut head = [0; FRAME_BYTES];
        if stream.read_exact(&mut head).await.is_err() {
            return false;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length.try_into().unwrap()];
        if stream.read_exact(&mut payload).await.is_err() {
            return false;
        }
        if head[3] == HEADERS {
            return true;
        }
    }
}
