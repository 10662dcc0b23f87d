module github.com/anteroom-chat/anteroom/services

go 1.26.0

require (
	github.com/anteroom-chat/anteroom/pkg v0.0.0
	github.com/anteroom-chat/anteroom/proto v0.0.0
)

require (
	github.com/alecthomas/kong v1.17.0 // indirect
	github.com/alicebob/miniredis/v2 v2.40.0 // indirect
	github.com/danielgtaylor/huma/v2 v2.37.2 // indirect
	github.com/golang-jwt/jwt/v5 v5.3.1 // indirect
	github.com/rs/cors v1.11.1 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	golang.org/x/time v0.16.0 // indirect
)

replace github.com/anteroom-chat/anteroom/proto => ../proto

replace github.com/anteroom-chat/anteroom/pkg => ../pkg
