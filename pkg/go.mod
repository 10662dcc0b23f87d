module github.com/anteroom-chat/anteroom/pkg

go 1.26.0

require github.com/anteroom-chat/anteroom/proto v0.0.0

replace github.com/anteroom-chat/anteroom/proto => ../proto
