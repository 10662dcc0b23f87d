module github.com/anteroom-chat/anteroom/proto

go 1.26.0
