module github.com/anteroom-chat/anteroom/services

go 1.26.0

require (
	github.com/anteroom-chat/anteroom/pkg v0.0.0
	github.com/anteroom-chat/anteroom/proto v0.0.0
)

replace github.com/anteroom-chat/anteroom/proto => ../proto

replace github.com/anteroom-chat/anteroom/pkg => ../pkg
