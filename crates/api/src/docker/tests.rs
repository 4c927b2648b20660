//! Tests of the whole endpoint.
