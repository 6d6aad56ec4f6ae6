//! Tables of requests to accept and to refuse.
