package httpapi

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

type createIdentityBody struct {
	Nickname string `json:"nickname,omitempty" doc:"The name to show"`
}

type createIdentityInput struct {
	Body *createIdentityBody
}

type identityAnswer struct {
	UserID     string `json:"userId" doc:"Who the user is from now on"`
	Identity   string `json:"identity" doc:"The signed token that proves it: keep it like a password"`
	ExpireTime string `json:"expireTime" format:"date-time" doc:"When it expires"`
}

type identityOutput struct {
	Body identityAnswer
}

func (a *api) addIdentities(docs huma.API) {
	huma.Register(docs, operation(huma.Operation{
		OperationID:   "createIdentity",
		Method:        http.MethodPost,
		Path:          "/v1/identities",
		Summary:       "Make an anonymous identity",
		Description:   "Makes a new user and a token that proves to be that user. The body may be left out.",
		DefaultStatus: http.StatusCreated,
	}, createIdentityBody{Nickname: "Ada"}, exampleIdentity, wire.BadRequest), a.createIdentity)
}

func (a *api) createIdentity(ctx context.Context, in *createIdentityInput) (*identityOutput, error) {
	var nickname string
	if in.Body != nil {
		nickname = in.Body.Nickname
	}
	token, id, err := a.Identities.Make(nickname)
	if err != nil {
		return nil, a.refuse(ctx, "createIdentity", err)
	}
	return &identityOutput{Body: identityAnswer{
		UserID: id.UserID, Identity: token, ExpireTime: wire.FormatTime(id.Expires),
	}}, nil
}
