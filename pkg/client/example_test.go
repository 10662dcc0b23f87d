package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/anteroom-chat/anteroom/pkg/client"
	"github.com/anteroom-chat/anteroom/pkg/wire"
)

// A bot stays in a room until it is taken out, and answers every message.
func ExampleMember() {
	ctx := context.Background()
	c, err := client.New("http://localhost:8080")
	if err != nil {
		log.Fatal(err)
	}
	_, err = c.CreateRoom(ctx, client.RoomSpec{RoomID: "lobby", Capacity: 8})
	if err != nil && !errors.Is(err, &wire.Error{Code: wire.RoomExists}) {
		log.Fatal(err)
	}
	bot, err := c.Enter(ctx, client.MemberOptions{RoomID: "lobby", Nickname: "echo"})
	if err != nil {
		log.Fatal(err)
	}
	defer bot.Close()
	for e := range bot.Events() {
		switch {
		case e.Type == wire.TypeGap:
			fmt.Println("missed", e.GapFrom, "to", e.GapTo)
		case e.Type == wire.TypeMessage && e.From.UserID != bot.UserID():
			if _, err := bot.Post(e.Body); err != nil { // not Send, which would wait for an echo that this loop must read
				log.Print(err)
			}
		}
	}
	fmt.Println("out:", bot.Err())
}

// One connection that is not restored when it is lost: reserve, join, send, leave.
func ExampleClient_Join() {
	ctx := context.Background()
	c, err := client.New("http://localhost:8080")
	if err != nil {
		log.Fatal(err)
	}
	room, err := c.CreateRoom(ctx, client.RoomSpec{Title: "Tea", Capacity: 2})
	if err != nil {
		log.Fatal(err)
	}
	ann, err := c.Identity(ctx, "Ann")
	if err != nil {
		log.Fatal(err)
	}
	permit, err := c.Reserve(ctx, ann.Identity, room.RoomID)
	if err != nil {
		log.Fatal(err) // errors.Is(err, &wire.Error{Code: wire.RoomFull})
	}
	s, err := c.Join(ctx, client.JoinOptions{RoomID: room.RoomID, Permit: permit.Permit, Identity: ann.Identity})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Abort()
	if err := s.Send(ctx, "hello-1", "hello"); err != nil {
		log.Fatal(err)
	}
	echo, err := s.Receive(ctx)
	fmt.Println(echo.Seq, err, s.Leave(ctx))
}
