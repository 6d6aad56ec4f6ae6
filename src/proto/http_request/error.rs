//! Why a head is refused: status, machine code and a constant sentence that says what to do.

use crate::proto::refused::Refused;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadError {
    BareLf,
    BareCr,
    RequestLineByteInvalid,
    RequestLineInvalid,
    MethodInvalid,
    MethodTooLong,
    MethodUnsupported,
    TargetInvalid,
    TargetTooLong,
    VersionUnsupported,
    HeadTooLarge,
    TooManyHeaders,
    HeaderFolded,
    HeaderByteInvalid,
    HeaderNameInvalid,
    HeaderValueNotAscii,
    HeaderRepeated,
    HostMissing,
    HostInvalid,
    HostMismatch,
    ContentLengthInvalid,
    ContentLengthWithTransferEncoding,
    TransferEncodingInHttp10,
    TransferEncodingInvalid,
    TransferEncodingUnsupported,
    ExpectationUnsupported,
}

impl From<HeadError> for Refused {
    fn from(error: HeadError) -> Self {
        let (status, code, message) = match error {
            // RFC 9112 §2.2
            HeadError::BareLf => (
                400,
                "line_end_invalid",
                "End every line with CR LF, not with LF alone.",
            ),
            HeadError::BareCr => (
                400,
                "line_end_invalid",
                "End every line with CR LF; send no CR elsewhere.",
            ),
            // RFC 9112 §3
            HeadError::RequestLineByteInvalid => (
                400,
                "request_line_byte_invalid",
                "Send plain HTTP/1.1; percent-encode what is not visible ASCII. Use http:// or ws:// where there is no TLS \
                 (setting tls_certificate).",
            ),
            HeadError::RequestLineInvalid => (
                400,
                "request_line_invalid",
                "Begin with method, target and HTTP/1.1 with one space between them.",
            ),
            HeadError::MethodInvalid => (400, "method_invalid", "Begin with a method such as GET."),
            HeadError::MethodTooLong => (
                501,
                "method_too_long",
                "Use a method that this server knows.",
            ),
            HeadError::MethodUnsupported => (
                501,
                "method_unsupported",
                "Use a method that this server knows.",
            ),
            // RFC 9112 §3.2
            HeadError::TargetInvalid => (
                400,
                "target_invalid",
                "Send a target that begins with a slash and has no fragment.",
            ),
            HeadError::TargetTooLong => (
                414,
                "target_too_long",
                "Send a shorter target, for example fewer channels.",
            ),
            // RFC 9112 §2.3
            HeadError::VersionUnsupported => (505, "version_unsupported", "Use HTTP/1.1."),
            // RFC 6585 §5
            HeadError::HeadTooLarge => (
                431,
                "head_too_large",
                "Send fewer or shorter headers, for example smaller cookies.",
            ),
            HeadError::TooManyHeaders => (431, "too_many_headers", "Send fewer headers."),
            // RFC 9112 §5.2
            HeadError::HeaderFolded => (
                400,
                "header_folded",
                "Send each header on one line that does not begin with whitespace.",
            ),
            // RFC 9110 §5.5
            HeadError::HeaderByteInvalid => (
                400,
                "header_byte_invalid",
                "Send no control bytes in headers.",
            ),
            // RFC 9112 §5.1
            HeadError::HeaderNameInvalid => (
                400,
                "header_name_invalid",
                "Send each header as a name of token characters, a colon right behind it, and a value.",
            ),
            HeadError::HeaderValueNotAscii => (
                400,
                "header_value_not_ascii",
                "Send only ASCII in the headers that this server reads.",
            ),
            // RFC 9110 §5.3
            HeadError::HeaderRepeated => (
                400,
                "header_repeated",
                "Send Host, Content-Length and other single-valued headers only once.",
            ),
            // RFC 9112 §3.2
            HeadError::HostMissing => (
                400,
                "host_missing",
                "Send a Host header, as HTTP/1.1 demands.",
            ),
            HeadError::HostInvalid => (
                400,
                "host_invalid",
                "Send a host name or address, and optionally a port, as Host.",
            ),
            HeadError::HostMismatch => (
                400,
                "host_mismatch",
                "Send the same host in the target and in the Host header.",
            ),
            // RFC 9112 §6.2, §6.3
            HeadError::ContentLengthInvalid => (
                400,
                "content_length_invalid",
                "Send one Content-Length of decimal digits only.",
            ),
            HeadError::ContentLengthWithTransferEncoding => (
                400,
                "content_length_with_transfer_encoding",
                "Send either Content-Length or Transfer-Encoding, not both.",
            ),
            // RFC 9112 §6.1
            HeadError::TransferEncodingInHttp10 => (
                400,
                "transfer_encoding_in_http10",
                "Use HTTP/1.1 to send Transfer-Encoding.",
            ),
            HeadError::TransferEncodingInvalid => (
                400,
                "transfer_encoding_invalid",
                "Send Transfer-Encoding: chunked and nothing else.",
            ),
            HeadError::TransferEncodingUnsupported => (
                501,
                "transfer_encoding_unsupported",
                "Send Transfer-Encoding: chunked and nothing else.",
            ),
            // RFC 9110 §10.1.1
            HeadError::ExpectationUnsupported => (
                417,
                "expectation_unsupported",
                "Expect nothing but 100-continue.",
            ),
        };
        Self::new(status, code, message)
    }
}
