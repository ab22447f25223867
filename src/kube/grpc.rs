//! gRPC over a Unix socket, with messages as bytes: who asks knows what it asks for. It knows no service.

use std::io;
use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use prost::bytes::{Buf, BufMut, Bytes};
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// In bytes, of an answer that may be under way: HTTP/2's own 64 KiB make a long list a thousand round trips.
const WINDOW_BYTES: u32 = 8 << 20;
/// The authority that the kubelet's servers expect over a Unix socket.
const AUTHORITY: &str = "http://localhost";

pub(super) async fn connect(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let dial = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    let endpoint = Endpoint::from_static(AUTHORITY)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    endpoint.connect_with_connector(dial).await
}

/// An error with its sources.
pub(super) fn said(error: &dyn std::error::Error) -> String {
    crate::native::chain(error)
}

/// One question with one answer.
pub(super) async fn call(client: &mut Grpc<Channel>, path: &'static str, request: Vec<u8>) -> Result<Bytes, Status> {
    client.ready().await.map_err(|e| Status::unavailable(said(&e)))?;
    let path = PathAndQuery::from_static(path);
    client.unary(Request::new(request), path, Plain).await.map(tonic::Response::into_inner)
}

/// Messages as they are: who decodes knows what is asked for.
pub(super) struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Plain;
    type Decoder = Plain;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Plain {
        Plain
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
