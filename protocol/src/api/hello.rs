//! The first exchange of a connection, and what versions are agreed on.
//!
//! The layout of Hello's request is frozen: a node of any age can read it and answer with a range.

use crate::api::{ApiKey, Request, request};
use crate::error::{ErrorCode, ErrorResponse};
use crate::ids::NodeId;
use crate::wire::wire_struct;

/// Lowest protocol version that this build speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// Highest protocol version that this build speaks.
pub const PROTOCOL_MAX: u16 = 1;

wire_struct! {
    /// Opens a connection. Any other first request is refused with `HelloRequired`.
    pub struct HelloRequest {
        /// Lowest protocol version the client speaks.
        pub protocol_min: u16,
        /// Highest protocol version the client speaks.
        pub protocol_max: u16,
        /// What the client calls itself, for logs.
        pub client_name: String,
        /// The client's version, for logs.
        pub client_version: String,
        /// The cluster the client means; another one refuses it with `WrongCluster`.
        pub cluster_id: Option<String>,
    }
}

wire_struct! {
    /// What the node speaks and allows.
    pub struct HelloResponse {
        /// The protocol version of this connection.
        pub protocol: u16,
        /// The node that answers.
        pub node_id: NodeId,
        /// Its cluster.
        pub cluster_id: String,
        /// Its version, for people.
        pub server_version: String,
        /// Largest frame it reads from now on, length field included.
        pub max_frame_bytes: u32,
        /// Largest batch it takes; a topic may allow less.
        pub batch_bytes_max: u32,
        /// The APIs it knows, and in which versions.
        pub apis: Vec<ApiVersions>,
    }
}

wire_struct! {
    /// The versions of one API that a node reads.
    pub struct ApiVersions {
        /// The API's number.
        pub api: u16,
        /// Lowest version.
        pub min: u8,
        /// Highest version.
        pub max: u8,
    }
}

request!(HelloRequest, Hello, 1 -> HelloResponse);

/// Every API that this build knows, for the answer to Hello.
#[must_use]
pub fn supported_apis() -> Vec<ApiVersions> {
    let versions = |api: &ApiKey| {
        let (min, max) = api.versions();
        ApiVersions { api: api.number(), min, max }
    };
    ApiKey::ALL.iter().map(versions).collect()
}

/// The highest protocol version that both sides speak.
///
/// # Errors
/// `UnsupportedVersion` with both ranges when there is none.
pub fn negotiate_protocol(hello: &HelloRequest) -> Result<u16, ErrorResponse> {
    let highest = hello.protocol_max.min(PROTOCOL_MAX);
    if highest >= hello.protocol_min.max(PROTOCOL_MIN) {
        return Ok(highest);
    }
    Err(ErrorResponse::new(
        ErrorCode::UnsupportedVersion,
        format!(
            "the client speaks protocol {} to {}, this node {PROTOCOL_MIN} to {PROTOCOL_MAX}; \
             upgrade the older of the two",
            hello.protocol_min, hello.protocol_max
        ),
    ))
}

/// The API that a request frame is for, when this build reads that version of it.
///
/// # Errors
/// `UnknownApi` or `UnsupportedVersion`, ready to be sent; the connection stays usable.
pub fn check_api(api: u16, version: u8) -> Result<ApiKey, ErrorResponse> {
    let Some(key) = ApiKey::from_number(api) else {
        let message = format!("this node knows no API {api}; it may be older than the client");
        return Err(ErrorResponse::new(ErrorCode::UnknownApi, message));
    };
    let (min, max) = key.versions();
    if (min..=max).contains(&version) {
        return Ok(key);
    }
    Err(ErrorResponse::new(
        ErrorCode::UnsupportedVersion,
        format!("this node reads {key} in the versions {min} to {max}, not {version}"),
    ))
}

/// Whether a node that told these APIs reads requests of type `R` as this build writes them.
///
/// # Errors
/// `UnknownApi` or `UnsupportedVersion`, as the node itself would answer.
pub fn negotiate_version<R: Request>(apis: &[ApiVersions]) -> Result<u8, ErrorResponse> {
    let key = R::API;
    match apis.iter().find(|offered| offered.api == key.number()) {
        Some(offered) if (offered.min..=offered.max).contains(&R::VERSION) => Ok(R::VERSION),
        Some(offered) => Err(ErrorResponse::new(
            ErrorCode::UnsupportedVersion,
            format!(
                "the node reads {key} in the versions {} to {}, this client writes {}",
                offered.min,
                offered.max,
                R::VERSION
            ),
        )),
        None => Err(ErrorResponse::new(
            ErrorCode::UnknownApi,
            format!("the node does not know {key}; it is older than this client"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::PingRequest;

    fn hello(protocol_min: u16, protocol_max: u16) -> HelloRequest {
        HelloRequest {
            protocol_min,
            protocol_max,
            client_name: String::new(),
            client_version: String::new(),
            cluster_id: None,
        }
    }

    #[test]
    fn highest_common_protocol_is_chosen() {
        assert_eq!(negotiate_protocol(&hello(0, 9)), Ok(1));
        assert_eq!(negotiate_protocol(&hello(1, 1)), Ok(1));
        for (min, max) in [(2, 9), (0, 0), (1, 0)] {
            let error = negotiate_protocol(&hello(min, max)).unwrap_err();
            assert_eq!(error.code, ErrorCode::UnsupportedVersion);
        }
    }

    #[test]
    fn unknown_api_and_version_have_their_codes() {
        assert_eq!(check_api(8, 1), Ok(ApiKey::Produce));
        assert_eq!(check_api(999, 1).unwrap_err().code, ErrorCode::UnknownApi);
        assert_eq!(check_api(8, 0).unwrap_err().code, ErrorCode::UnsupportedVersion);
        assert_eq!(check_api(8, 2).unwrap_err().code, ErrorCode::UnsupportedVersion);
    }

    #[test]
    fn client_sees_what_an_older_node_lacks() {
        assert_eq!(negotiate_version::<PingRequest>(&supported_apis()), Ok(1));
        let none = negotiate_version::<PingRequest>(&[]).unwrap_err();
        assert_eq!(none.code, ErrorCode::UnknownApi);
        let later = [ApiVersions { api: 1, min: 2, max: 3 }];
        let later = negotiate_version::<PingRequest>(&later).unwrap_err();
        assert_eq!(later.code, ErrorCode::UnsupportedVersion);
    }
}
