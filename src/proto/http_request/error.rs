//! Why a head is refused: status, machine code and a constant sentence that says what to do.

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

impl HeadError {
    pub fn status(self) -> u16 {
        self.answer().0
    }

    /// For programs: snake case, never changes.
    pub fn code(self) -> &'static str {
        self.answer().1
    }

    /// For people: what to do.
    pub fn message(self) -> &'static str {
        self.answer().2
    }

    fn answer(self) -> (u16, &'static str, &'static str) {
        match self {
            // RFC 9112 §2.2
            Self::BareLf => (
                400,
                "line_end_invalid",
                "End every line with CR LF, not with LF alone.",
            ),
            Self::BareCr => (
                400,
                "line_end_invalid",
                "End every line with CR LF; send no CR elsewhere.",
            ),
            // RFC 9112 §3
            Self::RequestLineByteInvalid => (
                400,
                "request_line_byte_invalid",
                "Send plain HTTP/1.1; percent-encode what is not visible ASCII. Use http:// or ws:// where there is no TLS \
                 (setting tls_certificate).",
            ),
            Self::RequestLineInvalid => (
                400,
                "request_line_invalid",
                "Begin with method, target and HTTP/1.1 with one space between them.",
            ),
            Self::MethodInvalid => (400, "method_invalid", "Begin with a method such as GET."),
            Self::MethodTooLong => (
                501,
                "method_too_long",
                "Use a method that this server knows.",
            ),
            Self::MethodUnsupported => (
                501,
                "method_unsupported",
                "Use a method that this server knows.",
            ),
            // RFC 9112 §3.2
            Self::TargetInvalid => (
                400,
                "target_invalid",
                "Send a target that begins with a slash and has no fragment.",
            ),
            Self::TargetTooLong => (
                414,
                "target_too_long",
                "Send a shorter target, for example fewer channels.",
            ),
            // RFC 9112 §2.3
            Self::VersionUnsupported => (505, "version_unsupported", "Use HTTP/1.1."),
            // RFC 6585 §5
            Self::HeadTooLarge => (
                431,
                "head_too_large",
                "Send fewer or shorter headers, for example smaller cookies.",
            ),
            Self::TooManyHeaders => (431, "too_many_headers", "Send fewer headers."),
            // RFC 9112 §5.2
            Self::HeaderFolded => (
                400,
                "header_folded",
                "Send each header on one line that does not begin with whitespace.",
            ),
            // RFC 9110 §5.5
            Self::HeaderByteInvalid => (
                400,
                "header_byte_invalid",
                "Send no control bytes in headers.",
            ),
            // RFC 9112 §5.1
            Self::HeaderNameInvalid => (
                400,
                "header_name_invalid",
                "Send each header as a name of token characters, a colon right behind it, and a value.",
            ),
            Self::HeaderValueNotAscii => (
                400,
                "header_value_not_ascii",
                "Send only ASCII in the headers that this server reads.",
            ),
            // RFC 9110 §5.3
            Self::HeaderRepeated => (
                400,
                "header_repeated",
                "Send Host, Content-Length and other single-valued headers only once.",
            ),
            // RFC 9112 §3.2
            Self::HostMissing => (
                400,
                "host_missing",
                "Send a Host header, as HTTP/1.1 demands.",
            ),
            Self::HostInvalid => (
                400,
                "host_invalid",
                "Send a host name or address, and optionally a port, as Host.",
            ),
            Self::HostMismatch => (
                400,
                "host_mismatch",
                "Send the same host in the target and in the Host header.",
            ),
            // RFC 9112 §6.2, §6.3
            Self::ContentLengthInvalid => (
                400,
                "content_length_invalid",
                "Send one Content-Length of decimal digits only.",
            ),
            Self::ContentLengthWithTransferEncoding => (
                400,
                "content_length_with_transfer_encoding",
                "Send either Content-Length or Transfer-Encoding, not both.",
            ),
            // RFC 9112 §6.1
            Self::TransferEncodingInHttp10 => (
                400,
                "transfer_encoding_in_http10",
                "Use HTTP/1.1 to send Transfer-Encoding.",
            ),
            Self::TransferEncodingInvalid => (
                400,
                "transfer_encoding_invalid",
                "Send Transfer-Encoding: chunked and nothing else.",
            ),
            Self::TransferEncodingUnsupported => (
                501,
                "transfer_encoding_unsupported",
                "Send Transfer-Encoding: chunked and nothing else.",
            ),
            // RFC 9110 §10.1.1
            Self::ExpectationUnsupported => (
                417,
                "expectation_unsupported",
                "Expect nothing but 100-continue.",
            ),
        }
    }
}
