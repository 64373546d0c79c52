package orrery

import (
	"encoding/json"
	"time"
)

// Job is one durable operation on one object, made of steps.
type Job struct {
	Meta        // Name is empty; Project is the object's
	Kind string `json:"kind"` // as in "datastore.create"
	// Object is the ID of what it works on. One mutating job per object runs at a time.
	Object     string `json:"object"`
	ObjectName string `json:"object_name,omitempty"`
	ReadOnly   bool   `json:"read_only,omitempty"`
	// Input never holds secrets.
	Input json.RawMessage `json:"input,omitempty"`
	State JobState        `json:"state"`
	Steps []JobStep       `json:"steps"`
	// Cursor is the index of the step that is being done or, when undoing, being undone.
	Cursor int `json:"cursor"`
	// Progress in percent, 0 to 100.
	Progress        int       `json:"progress"`
	Error           *JobError `json:"error,omitempty"`
	CancelRequested bool      `json:"cancel_requested,omitempty"`
	// ForwardOnly is true once the job can neither be cancelled nor undone any more.
	ForwardOnly bool `json:"forward_only,omitempty"`
	// Owner is the server that runs it, empty while it waits.
	Owner       string     `json:"owner,omitempty"`
	RequestedBy string     `json:"requested_by,omitempty"`
	Deadline    time.Time  `json:"deadline"`
	Alarm       string     `json:"alarm,omitempty"` // set when a person has to look
	NotBefore   *time.Time `json:"not_before,omitempty"`
	StartedAt   *time.Time `json:"started_at,omitempty"`
	EndedAt     *time.Time `json:"ended_at,omitempty"`
}

// JobState is a job's state.
type JobState string

// The states of a job. Succeeded, Failed and Cancelled are final.
const (
	JobQueued    JobState = "queued"
	JobRunning   JobState = "running"
	JobUndoing   JobState = "undoing"
	JobStuck     JobState = "stuck" // cannot go forward nor back by itself; a person may retry or cancel
	JobSucceeded JobState = "succeeded"
	JobFailed    JobState = "failed"    // undone whole
	JobCancelled JobState = "cancelled" // undone whole
)

// Final tells whether a job in this state is over.
func (s JobState) Final() bool { return s == JobSucceeded || s == JobFailed || s == JobCancelled }

// JobStep is one step of a job's plan with what has become of it. The plan is made once, when the job is first
// claimed, and stored, so that whoever resumes it does the same.
type JobStep struct {
	Name  string          `json:"name"` // of a registered do/undo pair
	Title string          `json:"title"`
	Args  json.RawMessage `json:"args,omitempty"`
	// Result is what the step wants to remember for its undo or for later steps.
	Result    json.RawMessage `json:"result,omitempty"`
	State     StepState       `json:"state"`
	Attempts  int             `json:"attempts,omitempty"`
	Log       []LogLine       `json:"log,omitempty"` // bounded; the newest
	StartedAt *time.Time      `json:"started_at,omitempty"`
	EndedAt   *time.Time      `json:"ended_at,omitempty"`
}

// StepState is a step's state.
type StepState string

// The states of a step.
const (
	StepPending StepState = "pending"
	StepRunning StepState = "running"
	StepDone    StepState = "done"
	StepFailed  StepState = "failed"
	StepUndone  StepState = "undone"
)

// LogLine is one line that a step says.
type LogLine struct {
	Time    time.Time `json:"time"`
	Message string    `json:"message"`
}

// JobError is why a job failed.
type JobError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Field   string `json:"field,omitempty"`
	Hint    string `json:"hint,omitempty"`
	Step    string `json:"step,omitempty"`
}

// Event is something that happened to an object, for people to read.
type Event struct {
	Meta
	Object     string        `json:"object"`
	ObjectName string        `json:"object_name,omitempty"`
	Time       time.Time     `json:"time"`
	Severity   EventSeverity `json:"severity"`
	Reason     string        `json:"reason"` // stable, as in "JobFailed"
	Message    string        `json:"message"`
	Job        string        `json:"job,omitempty"`
}

// EventSeverity says how much an event matters.
type EventSeverity string

// The severities.
const (
	SeverityInfo    EventSeverity = "info"
	SeverityWarning EventSeverity = "warning"
	SeverityError   EventSeverity = "error"
)

// Token lets a program or a person in. Only its hash is kept.
type Token struct {
	Meta
	Hash      string     `json:"hash,omitempty"` // SHA-256 of the secret part, hex
	Role      string     `json:"role"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
}
