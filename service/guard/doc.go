// Package guard decides who is calling, what they may call, how much of it, and what is written down about it.
//
// The four questions are asked of every call in this order, and each has its own part here:
//
//   - Who: [Authenticator] turns the credentials of a request (a client certificate, a bearer token) into a [Caller].
//     gRPC and REST share it, so that a caller is the same one by either, and no header but Authorization is ever read.
//   - What: [Admit] holds the caller against a table of all methods. A method that is not in the table is denied. What a
//     caller may reach by a method it may call is the question of package policy, asked at the dial.
//   - How much: [Limiter] bounds sessions, dials and targets for each caller.
//   - What is written down: one record a session, in the audit log.
//
// Failures are typed errors; turning them into statuses is the business of package service. What they say to a caller
// never tells which credentials exist, nor any part of one that was sent.
//
// Use it around handlers: first [Authenticator.Identify], outermost, so that logs and limits know the caller, then
// [Admit] before the handler.
package guard
