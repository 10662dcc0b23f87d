-- Stands behind an operation, which it carries out for each of the calls that share this run
-- of the script.
-- KEYS: those of the first call, then those of the second …; all calls have as many
-- ARGV: 1 number of calls; then those of each call, likewise
-- Answers for each call an array of one, what the operation answered; or, as text, the error
-- that this call came to, which leaves the others alone.
--
-- As text, since go-redis stops reading an array at an error like OOM in it, and takes what
-- is left for the answers of the next commands. Only READONLY, of a replica that carries out
-- no write, is answered as an error, for the whole run: go-redis then gives the connection
-- up, and the next one may lead to the Redis that has taken over.
--
-- A full Redis refuses a run whose first write needs memory. Behind a first write that needs
-- none, as to delete something, it takes all writes, those of later calls too.
local calls = tonumber(ARGV[1])
local keys, args = #KEYS / calls, (#ARGV - 1) / calls
local answers = {}
for i = 0, calls - 1 do
  local done, answer = pcall(operation, {unpack(KEYS, i * keys + 1, i * keys + keys)}, {unpack(ARGV, i * args + 2, i * args + args + 1)})
  if type(answer) == 'table' and answer.err then done, answer = false, answer.err end
  if not done and string.find(tostring(answer), '^READONLY') then return {err = answer} end
  answers[i + 1] = done and {answer} or tostring(answer)
end
return answers
