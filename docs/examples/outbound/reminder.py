"""Reminds people of an appointment; a machine gets a message of its own."""


async def bot(call):
    if await call.who_answered() == "machine":
        if await call.greeting_over():
            await call.say("This is the surgery of Dr Miller. Please call us back about your appointment. Goodbye.")
        return
    choices = {("1", "yes"): "coming", ("2", "no"): "not coming"}
    answer = await call.ask(
        "Hello, this is the surgery of Dr Miller. Will you come tomorrow at nine? Please say yes or no.",
        choices,
        invalid="I am sorry, I did not understand.",
        tries=2,
    )
    call.variables["appointment"] = answer or "open"
    await call.say("Thank you. Goodbye.")
